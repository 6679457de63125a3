"""Faults: whatever happens to engines or clients, each accepted request ends in one answer or one clear error."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from pennyweight.cli import reload as verb
from pennyweight.errors import EngineError, UsageError
from tests.serve.gateway.gateways import Running, Start, family

pytestmark = [pytest.mark.slow, pytest.mark.measures]

LONG: dict[str, Any] = {"model": "model", "prompt": "a b c d", "max_tokens": 60}


def end_of(gateway: Running, *, stream: bool) -> str:
    """answer, error, or what should never be."""
    try:
        made = gateway.client().completions.create(**LONG, stream=stream)
        if not stream:
            return "answer" if made.usage.completion_tokens == 60 else "cut"
        finish = None
        for chunk in made:
            finish = chunk.choices[0].finish_reason if chunk.choices else finish
        return "answer" if finish == "length" else "cut"
    except openai.APIError as error:
        return "error" if str(error) else "silence"


def under_load(
    gateway: Running, count: int, fault: Callable[[], None], *, stream: bool, after: float = 0.2
) -> list[str]:
    with ThreadPoolExecutor(count) as pool:
        asked = [pool.submit(end_of, gateway, stream=stream) for _ in range(count)]
        gateway.until(lambda: gateway.status["running"] >= min(count, gateway.status["capacity"]))
        time.sleep(after)
        fault()
        return [future.result(60) for future in asked]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_an_engine_that_is_killed_under_load(start: Start, stream: bool) -> None:
    gateway = start("--replicas", 2, max_num_seqs=8, step_ms=20.0)
    victim = gateway.workers()[0]
    ends = under_load(gateway, 12, lambda: victim.send_signal(signal.SIGKILL), stream=stream)
    assert set(ends) <= {"answer", "error"}
    if stream:
        assert "error" in ends and "answer" in ends  # those that had begun to stream on it, and those elsewhere
    else:
        assert ends == ["answer"] * 12  # nothing of them was out: asked again
    gateway.until(lambda: gateway.get("/ready")["replicas"] == 2)
    assert gateway.status["restarts"] == 1 and end_of(gateway, stream=stream) == "answer"


def test_a_single_engine_that_is_killed_comes_back_for_those_who_wait(start: Start) -> None:
    gateway = start(max_num_seqs=8, step_ms=20.0)
    victim = gateway.workers()[0]
    assert under_load(gateway, 4, lambda: victim.send_signal(signal.SIGKILL), stream=False) == ["answer"] * 4


def test_a_driver_that_is_killed_takes_its_face_along_and_nobody_is_refused(start: Start) -> None:
    gateway = start(max_num_seqs=8, step_ms=20.0)
    victim = family(gateway.workers()[0], "spawn_main")[0]
    assert under_load(gateway, 4, lambda: victim.send_signal(signal.SIGKILL), stream=False) == ["answer"] * 4


def test_a_chat_that_has_shown_no_more_than_its_role_is_asked_again(start: Start) -> None:
    gateway = start("--replicas", 2, max_num_seqs=8, prefill_ms=1500.0)
    made = []

    def ask() -> None:
        asked = {"model": "model", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, "stream": True}
        made.extend(gateway.client().chat.completions.create(**asked))

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(0.7)
    (busy,) = (row["number"] for row in gateway.status["replicas"] if row["requests"])
    gateway.workers()[busy - 1].send_signal(signal.SIGKILL)
    asking.join(30)
    assert made[-1].choices[0].finish_reason == "length" and gateway.status["retries"] == 1


def test_long_whole_answers_are_no_silence(start: Start) -> None:
    gateway = start("--stall-timeout", 4, max_num_seqs=8, step_ms=150.0)
    assert end_of(gateway, stream=False) == "answer"  # 9 s without a byte, and seven tokens in every one of them
    assert gateway.status["restarts"] == 0


def test_a_long_score_is_no_silence(start: Start) -> None:
    gateway = start("--stall-timeout", 4, max_num_seqs=8, prefill_ms=1200.0)
    text = " word" * 240  # 8 pieces of 64 tokens: 10 s without a token
    scored = gateway.client().completions.create(
        model="model", prompt=text, max_tokens=0, logprobs=1, extra_body={"echo": True}
    )
    assert scored.choices[0].text == text
    assert gateway.status["restarts"] == 0


def test_a_request_that_an_engine_had_alone_when_it_fell_silent_is_not_asked_again(start: Start) -> None:
    gateway = start("--stall-timeout", 2, max_num_seqs=8, step_ms=10.0, fault="hang", fault_after=30)
    assert ends_of(gateway, "a long answer") == "request_quarantined"
    assert gateway.status["restarts"] <= 1 and gateway.status["retries"] == 1


def test_an_engine_that_stops_answering_is_replaced(start: Start) -> None:
    gateway = start("--stall-timeout", 2, "--replicas", 2, max_num_seqs=8, step_ms=10.0)
    victim = family(gateway.workers()[0], "spawn_main")[0]  # its driver: the face answers on
    ends = under_load(gateway, 8, lambda: victim.send_signal(signal.SIGSTOP), stream=False)
    assert ends == ["answer"] * 8
    gateway.until(lambda: gateway.status["restarts"] == 1)


def test_a_stream_that_its_engine_forgets_ends_in_an_error(start: Start) -> None:
    gateway = start("--stall-timeout", 2, max_num_seqs=8, step_ms=20.0, fault="forget", fault_after=30)
    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(end_of, gateway, stream=True) for _ in range(12)]  # longer than the silence is allowed
        ends = sorted(future.result(60) for future in asked)
    assert ends == ["answer"] * 11 + ["error"]
    assert gateway.status["restarts"] == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real one of two MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_is_really_full_costs_no_answer_and_keeps_no_half_of_a_batch(
    start: Start, small_disk: Path
) -> None:
    gateway = start("--cache", small_disk / "answers.db", "--state", small_disk / "state", max_num_seqs=8)
    client = gateway.client()
    row = {"custom_id": "one", "method": "POST", "url": "/v1/completions", "body": {**LONG, "max_tokens": 5}}
    kept = client.files.create(file=("work.jsonl", json.dumps(row).encode()), purpose="batch")
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as out, contextlib.suppress(OSError):
        while out.write(bytes(4096)) == 4096:
            pass
    for number in range(30):  # each would be stored
        asked = {**LONG, "prompt": f"{number} a b", "temperature": 0}
        assert client.completions.create(**asked).usage.completion_tokens == 60
    for _ in range(2):
        with pytest.raises(openai.InternalServerError, match="nothing was kept") as refused:
            client.files.create(file=("large.jsonl", bytes(50_000)), purpose="batch")
        assert refused.value.status_code == 507
    ballast.unlink()
    batch = client.batches.create(input_file_id=kept.id, endpoint="/v1/completions", completion_window="24h")
    gateway.until(lambda: client.batches.retrieve(batch.id).status == "completed")
    assert [file.id for file in client.files.list()].count(kept.id) == 1 and end_of(gateway, stream=False) == "answer"


def test_told_to_stop_it_ends_what_it_has_begun(start: Start) -> None:
    gateway = start(max_num_seqs=8, step_ms=30.0)
    processes = psutil.Process(gateway.process.pid).children(recursive=True)
    codes: list[int] = []
    stopping = threading.Thread(target=lambda: codes.append(gateway.stop()))
    ends = under_load(gateway, 4, stopping.start, stream=True)
    stopping.join()
    assert ends == ["answer"] * 4 and codes == [0]
    assert psutil.wait_procs(processes, 5)[1] == []


def test_reload_drops_no_request(start: Start, deployed: Callable[..., Path]) -> None:
    gateway = start(max_num_seqs=8, step_ms=20.0)
    old = gateway.workers()[0].pid
    ends = under_load(gateway, 4, lambda: verb.reload(str(deployed(max_num_seqs=4)), port=gateway.port), stream=True)
    assert ends == ["answer"] * 4
    gateway.until(
        lambda: [worker.pid for worker in gateway.workers()] != [] and old not in [w.pid for w in gateway.workers()]
    )
    assert "max_num_seqs=4" in gateway.status["service"] and end_of(gateway, stream=False) == "answer"


def test_a_reload_that_fails_changes_nothing(start: Start, deployed: Callable[..., Path]) -> None:
    gateway = start()
    with pytest.raises(EngineError, match="fault=load"):
        verb.reload(str(deployed(fault="load")), port=gateway.port)
    assert end_of(gateway, stream=False) == "answer"
    with pytest.raises(UsageError, match="pw serve"):
        verb.reload(str(deployed()), port=1)


def test_many_streams_at_once(start: Start) -> None:
    gateway = start("--max-queue", 2000, max_num_seqs=256, step_ms=20.0)
    with ThreadPoolExecutor(100) as pool:
        ends = list(pool.map(lambda _: end_of(gateway, stream=True), range(200)))
    assert ends == ["answer"] * 200


def test_an_engine_that_is_ten_times_slower_gets_less_to_do(start: Start) -> None:
    gateway = start("--replicas", 2, max_num_seqs=32, step_ms=10.0)
    slow = family(gateway.workers()[0], "spawn_main")[0]
    done = threading.Event()

    def drag() -> None:
        while not done.is_set():
            slow.suspend()
            time.sleep(0.09)
            slow.resume()
            time.sleep(0.01)

    dragging = threading.Thread(target=drag)
    dragging.start()
    try:
        with ThreadPoolExecutor(4) as pool:
            ends = list(pool.map(lambda _: end_of(gateway, stream=True), range(24)))
    finally:
        done.set()
        dragging.join()
    assert ends == ["answer"] * 24
    assert gateway.status["restarts"] == 0


POISON = list(range(5, 18))


def ends_of_poison(gateway: Running) -> str:
    return ends_of(gateway, POISON, max_tokens=4)


def ends_of(gateway: Running, prompt: str | list[int], max_tokens: int = 100) -> str:
    """ "answer", or the code of the refusal."""
    try:
        gateway.client().completions.create(model="model", prompt=prompt, max_tokens=max_tokens)
        return "answer"
    except openai.APIStatusError as error:
        return str(error.body["code"]) if isinstance(error.body, dict) else "?"


def test_a_poisonous_request_costs_two_engines_and_nobody_else_an_answer(start: Start) -> None:
    gateway = start("--replicas", 2, max_num_seqs=8, step_ms=20.0, fault="poison", fault_after=len(POISON))
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(end_of, gateway, stream=False) for _ in range(6)]
        gateway.until(lambda: gateway.status["running"] >= 6)
        assert ends_of_poison(gateway) == "request_quarantined"
        assert [future.result(90) for future in asked] == ["answer"] * 6
    gateway.until(lambda: gateway.status["restarts"] == 2)
    gateway.until(lambda: gateway.get("/ready")["replicas"] == 2)
    assert ends_of_poison(gateway) == "request_quarantined"
    assert gateway.status["restarts"] == 2 and end_of(gateway, stream=False) == "answer"
