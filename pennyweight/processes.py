"""Processes and ports of this machine: how a child ends with its parent, how an exit is put into words, which port is
free."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import threading
import time

from pennyweight.errors import EngineError

LOOK_SECONDS, GRACE_SECONDS = 0.5, 10.0
PR_SET_PDEATHSIG = 1  # of prctl(2)


def end_with_parent() -> None:
    """A `preexec_fn` for single-process servers: SIGKILL on the parent's end; a loading server ignores SIGTERM."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def refuse_taken_port(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            if isinstance(error, socket.gaierror) or getattr(error, "errno", 0) == errno.EADDRNOTAVAIL:
                raise EngineError(f"{host} is no address of this machine ({why}): choose it with --host.") from None
            raise EngineError(f"Port {port} on {host} cannot be used ({why}): choose another with --port.") from None


def describe_exit(code: int | None) -> str:
    """How a process ended, as the end of a sentence."""
    if code is None or code >= 0:
        return f" with exit code {code}"
    return f", killed by signal {-code}" + (" (often: out of memory)" if code == -9 else "")


def end_with(parent: int) -> None:
    """End this process, and its whole group, when `parent` has ended: a killed `pw` leaves no engine behind."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_SECONDS)
        os.killpg(os.getpgid(0), signal.SIGKILL)  # a driver too, which may be inside its library

    threading.Thread(target=watch, name="parent", daemon=True).start()
