"""Runs a server that would outlive pennyweight: `python -m pennyweight.serve.watchdog PARENT COMMAND …`.

It ends, with all that it started, when the parent has. (A signal that the kernel sends on a parent's death comes once,
and servers that are loading do not hear it.)
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

LOOK_SECONDS, GRACE_SECONDS = 0.5, 5.0


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # a signal to our process group reaches the server too
    server = subprocess.Popen(command)
    while server.poll() is None:
        if os.getppid() != parent:
            os.killpg(0, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(GRACE_SECONDS)
            os.killpg(0, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(LOOK_SECONDS)
    if server.returncode < 0:  # exit by the same signal, so that our caller sees how the server ended
        with contextlib.suppress(OSError):
            signal.signal(-server.returncode, signal.SIG_DFL)
        os.kill(os.getpid(), -server.returncode)
    sys.exit(server.returncode)


if __name__ == "__main__":
    main()
