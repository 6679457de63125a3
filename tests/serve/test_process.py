"""Engine processes: whatever goes wrong in one ends as a sentence, and nothing of it stays behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import openai
import psutil
import pytest

from pennyweight.deployment import Deployment
from pennyweight.errors import EngineError, EngineRefused, StorageError, UsageError
from pennyweight.serve import open_engine
from pennyweight.serve.launchers import local
from pennyweight.serve.process import ServerProcess

Scripted = Callable[..., Deployment]
start_engine = partial(local.start_engine, names=("model",))


def children() -> set[int]:
    return {p.pid for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE}


@pytest.fixture(autouse=True)
def _nothing_stays_behind() -> Iterator[None]:
    before = children()
    yield
    deadline = time.monotonic() + 5
    while (left := children() - before) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left


def ask(engine: ServerProcess, timeout: float = 20, tokens: int = 20) -> openai.types.Completion:
    client = openai.OpenAI(base_url=f"{engine.base_url}/v1", api_key="none", max_retries=0, timeout=timeout)
    return client.completions.create(model="model", prompt="one two three", max_tokens=tokens)


def test_an_engine_that_will_not_load_says_why_in_its_own_sentence(scripted: Scripted, tmp_path: Path) -> None:
    engine = start_engine(scripted(fault="load"), tmp_path / "log")
    with pytest.raises(EngineError, match=r"^scripted: asked to fail while loading") as refused:
        engine.wait_healthy(60)
    assert "Traceback" not in str(refused.value)
    assert not engine.alive


def test_an_engine_that_dies_gives_its_client_an_error_and_ends(scripted: Scripted) -> None:
    with open_engine(scripted(fault="die", fault_after=5)) as endpoint:
        assert endpoint.process is not None
        with pytest.raises(openai.APIError):
            ask(endpoint.process)
        endpoint.process.process.wait(15)
        assert not endpoint.process.alive
        assert "exit code 9" in endpoint.process.log_tail()


@pytest.mark.slow
def test_an_engine_that_hangs_lets_its_client_time_out_and_can_still_be_stopped(scripted: Scripted) -> None:
    with open_engine(scripted(fault="hang", fault_after=5)) as endpoint:
        assert endpoint.process is not None
        assert ask(endpoint.process, tokens=5).usage is not None
        with pytest.raises(openai.APITimeoutError):
            ask(endpoint.process, timeout=1)
        begun = time.monotonic()
        endpoint.process.stop()
        assert time.monotonic() - begun < 9
        assert not endpoint.process.alive
        endpoint.process.stop()  # twice is once


def test_an_engine_that_never_gets_ready_is_ended(scripted: Scripted, tmp_path: Path) -> None:
    engine = start_engine(scripted(fault="slow_load"), tmp_path / "log")
    with pytest.raises(EngineError, match="--start-timeout"):
        engine.wait_healthy(timeout=1.5)
    assert not engine.alive


def test_one_that_is_told_to_end_while_it_loads_does(scripted: Scripted, tmp_path: Path) -> None:
    engine = start_engine(scripted(fault="slow_load"), tmp_path / "log")
    worker = psutil.Process(engine.process.pid)
    while not any("spawn_main" in " ".join(child.cmdline()) for child in worker.children()):
        time.sleep(0.05)
    begun = time.monotonic()
    engine.process.terminate()  # the worker alone: its driver does not listen to that
    assert engine.process.wait(9) == 128 + signal.SIGTERM
    assert time.monotonic() - begun < 5


def test_a_taken_port_is_named_before_a_process_is_spent(scripted: Scripted, tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        before = children()
        with pytest.raises(EngineError, match=f"Port {port}"):
            start_engine(scripted(), tmp_path / "log", port=port)
        assert children() == before


@pytest.mark.parametrize(
    ("settings", "word"),
    [({"warp": 9}, "warp"), ({"max_num_seqs": "many"}, "max_num_seqs"), ({"max_num_seqs": 0}, "max_num_seqs")],
)
def test_settings_are_checked_before_a_process_is_spent(
    scripted: Scripted, tmp_path: Path, settings: dict[str, object], word: str
) -> None:
    before = children()
    with pytest.raises(EngineRefused, match=word):
        start_engine(scripted(**settings), tmp_path / "log")
    assert children() == before and not (tmp_path / "log").exists()


def test_an_unknown_engine_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="openvino"):
        start_engine(Deployment("warp", str(tmp_path), "tiny", "BF16"), tmp_path / "log")


def test_a_model_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="nowhere"):
        start_engine(Deployment("scripted", str(tmp_path / "nowhere"), "tiny", "BF16"), tmp_path / "log")


def test_stopping_twice_is_safe_and_the_peak_is_remembered(scripted: Scripted, tmp_path: Path) -> None:
    engine = start_engine(scripted(), tmp_path / "log")
    engine.wait_healthy(60)
    resident, seconds = engine.usage()
    assert resident > 10 << 20 and seconds > 0
    engine.stop()
    engine.stop()
    assert not engine.alive
    assert engine.usage()[0] < resident and engine.peak_bytes >= resident


DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
PARENT = """
import os, subprocess, sys
command = [sys.executable, "-m", "pennyweight.serve.watchdog", str(os.getpid()), sys.executable, "-c", sys.argv[1]]
watcher = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
watcher.stdout.readline()
print(watcher.pid, flush=True)
watcher.wait()
"""


@pytest.mark.slow
def test_a_server_that_hears_nothing_ends_with_its_parent_all_the_same() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, DEAF], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        watcher = psutil.Process(int(parent.stdout.readline()))
        family = [watcher, *watcher.children(recursive=True)]
        assert len(family) == 2
        parent.kill()
    assert psutil.wait_procs(family, timeout=15)[1] == []


@pytest.mark.parametrize(("code", "ends"), [("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", -9)])
def test_a_watched_server_s_end_is_told_as_it_was(code: str, ends: int) -> None:
    command = [sys.executable, "-m", "pennyweight.serve.watchdog", str(os.getpid()), sys.executable, "-c", code]
    assert subprocess.run(command, timeout=20, check=False).returncode == ends
