"""OpenAI's batch API through its own client; nothing is lost to a kill, and nothing is answered twice."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from pennyweight.errors import StorageError
from pennyweight.serve.gateway.ask import Ask, Head, Piece
from pennyweight.serve.gateway.batch_store import BatchStore
from pennyweight.serve.gateway.batches import Batches
from pennyweight.serve.gateway.keys import add
from pennyweight.serve.gateway.refusals import Refused, Unavailable
from pennyweight.serve.gateway.tenant import Tenant
from tests.serve.gateway.asks import a_pool
from tests.serve.gateway.gateways import Running, Start, running

ENDPOINT = "/v1/completions"


def lines(count: int, **more: Any) -> bytes:
    body = {"model": "model", "prompt": "a b", "max_tokens": 10, **more}
    rows = [{"custom_id": f"n{n}", "method": "POST", "url": ENDPOINT, "body": body} for n in range(count)]
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def submit(client: openai.OpenAI, content: bytes) -> Any:
    file = client.files.create(file=("work.jsonl", content), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h")


def ended(client: openai.OpenAI, batch: str, seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while (found := client.batches.retrieve(batch)).status in ("in_progress", "cancelling"):
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    return found


def results(client: openai.OpenAI, file: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in client.files.content(file).text.splitlines()]


@pytest.fixture(scope="module")
def keeping(deployed: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    with running(deployed(max_num_seqs=8), "--state", tmp_path_factory.mktemp("state")) as made:
        yield made


def test_a_batch_is_answered_line_by_line(keeping: Running) -> None:
    client = keeping.client()
    made = ended(client, submit(client, lines(20)).id)
    assert made.status == "completed" and made.request_counts.completed == made.request_counts.total == 20
    rows = results(client, made.output_file_id)
    assert [row["custom_id"] for row in rows] == [f"n{n}" for n in range(20)]
    assert all(row["response"]["body"]["usage"]["completion_tokens"] == 10 for row in rows)
    assert made.id in [batch.id for batch in client.batches.list()]


def test_lines_that_the_engine_refuses_are_told_apart(keeping: Running) -> None:
    client = keeping.client()
    made = ended(client, submit(client, lines(2) + lines(3, max_tokens=10**6).replace(b'"n', b'"bad')).id)
    assert (made.request_counts.completed, made.request_counts.failed) == (2, 3)
    assert {row["response"]["status_code"] for row in results(client, made.error_file_id)} == {400}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no requests"),
        (b"{oops\n", "no JSON"),
        (lines(1) * 2, "twice"),
        (lines(1, stream=True), "stream"),
        (lines(1, model="other"), "not served"),
        (lines(1).replace(b"/v1/comp", b"/v2/comp"), "POST /v1/completions"),
        (b'{"custom_id": 7}\n', "custom_id"),
    ],
)
def test_a_file_that_is_none_fails_before_anything_runs(keeping: Running, content: bytes, says: str) -> None:
    client = keeping.client()
    made = submit(client, content)
    assert made.status == "failed" and says in made.errors.data[0].message


def test_what_cannot_be_asked_is_refused(keeping: Running) -> None:
    client = keeping.client()
    with pytest.raises(openai.BadRequestError, match="purpose"):
        client.files.create(file=("a", b"x"), purpose="fine-tune")
    with pytest.raises(openai.NotFoundError, match="no file"):
        client.batches.create(input_file_id="file-x", endpoint=ENDPOINT, completion_window="24h")
    with pytest.raises(openai.NotFoundError, match="no batch"):
        client.batches.retrieve("batch_x")
    file = client.files.create(file=("a.jsonl", b"x"), purpose="batch")
    with pytest.raises(openai.BadRequestError, match="endpoint"):
        client.batches.create(input_file_id=file.id, endpoint="/v1/moderations", completion_window="24h")
    with pytest.raises(openai.BadRequestError, match="completion_window"):
        client.batches.create(input_file_id=file.id, endpoint=ENDPOINT, completion_window="7d")
    for more in ({"metadata": {"a": 1}}, {"output_expires_after": {"anchor": "x", "seconds": 1}}, {"bogus": 1}):
        with pytest.raises(openai.BadRequestError, match=next(iter(more))):
            client.batches.create(input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h", extra_body=more)
    with pytest.raises(openai.BadRequestError, match="bogus"):
        client.files.create(file=("a", b"x"), purpose="batch", extra_body={"bogus": "1"})
    assert client.files.retrieve(file.id).bytes == 1 and client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)


def test_without_a_place_for_it_there_is_no_batch_api(gateway: Running) -> None:
    with pytest.raises(openai.BadRequestError, match="--state"):
        gateway.client().files.create(file=("a", b"x"), purpose="batch")


def test_tenants_see_their_own_only(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    keys = [add(file, Tenant(name)) for name in ("alice", "bob")]
    gateway = start("--keys", file, "--state", tmp_path / "state")
    alice, bob = (gateway.client(key) for key in keys)
    made = submit(alice, lines(1))
    with pytest.raises(openai.NotFoundError):
        bob.batches.retrieve(made.id)
    with pytest.raises(openai.NotFoundError):
        bob.files.content(made.input_file_id)
    assert list(bob.batches.list()) == list(bob.files.list()) == []


def test_a_cancelled_batch_keeps_what_was_done(start: Start, tmp_path: Path) -> None:
    client = start("--state", tmp_path, max_num_seqs=2, step_ms=20.0).client()
    made = submit(client, lines(50))
    while client.batches.retrieve(made.id).request_counts.completed < 2:
        time.sleep(0.05)
    client.batches.cancel(made.id)
    found = ended(client, made.id)
    assert found.status == "cancelled" and 2 <= found.request_counts.completed < 50
    assert len(results(client, found.output_file_id)) == found.request_counts.completed


def test_batch_work_yields_to_those_who_wait(start: Start, tmp_path: Path) -> None:
    gateway = start("--state", tmp_path, max_num_seqs=4, step_ms=20.0)
    client = gateway.client()
    made = submit(client, lines(200))
    gateway.until(lambda: gateway.status["running"] >= 3)
    gateway.until(lambda: 0 < gateway.status["batches"].get("done", 0) < 200)
    assert gateway.status["batches"]["open"] == 1 and gateway.status["batches"]["total"] == 200
    for _ in range(5):
        began = time.monotonic()
        client.completions.create(model="model", prompt="now", max_tokens=5)
        assert time.monotonic() - began < 1.5  # its own five steps, and not those of 200 others
    assert client.batches.retrieve(made.id).status == "in_progress"


@pytest.mark.slow
def test_a_kill_loses_nothing_and_repeats_nothing_that_was_done(deployed: Callable[..., Path], tmp_path: Path) -> None:
    directory = deployed(max_num_seqs=4, step_ms=10.0)
    with running(directory, "--state", tmp_path) as first:
        client = first.client()
        batch = submit(client, lines(60)).id
        while client.batches.retrieve(batch).request_counts.completed < 10:
            time.sleep(0.05)
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
    before = dict(sqlite3.connect(tmp_path / "queue.db").execute("SELECT name, answer FROM items WHERE status = 200"))
    assert 10 <= len(before) < 60
    with running(directory, "--state", tmp_path) as second:
        client = second.client()
        made = ended(client, batch)
        assert made.request_counts.completed == 60
        rows = {row["custom_id"]: row["response"]["body"] for row in results(client, made.output_file_id)}
    assert len(rows) == 60
    assert all(rows[name] == json.loads(answer) for name, answer in before.items())


def test_an_item_that_no_engine_answers_ends_and_so_does_its_batch(tmp_path: Path, monkeypatch: Any) -> None:
    async def work() -> None:
        async def answer(ask: Ask) -> AsyncGenerator[Piece]:
            if b"kill" in ask.raw:
                raise Unavailable("no engine")
            if b"fault" in ask.raw:
                raise ZeroDivisionError
            yield Head(400, "text/plain")
            yield b"no JSON at all"

        batches = Batches(tmp_path, answer, room=lambda: 4, pool_for=lambda _: a_pool(), tenant_of=lambda _: None)
        content = b"".join(lines(1, prompt=word).replace(b"n0", word.encode()) for word in ("kill", "fault", "fine"))
        file = await batches.upload("a", "f", "batch", io.BytesIO(content))
        made = await batches.create("a", {"endpoint": ENDPOINT, "input_file_id": file.id})
        working = asyncio.create_task(batches.work())
        for _ in range(500):
            if (found := await batches.batch("a", made["id"]))["status"] == "completed":
                break
            await asyncio.sleep(0.01)
        assert found["request_counts"] == {"total": 3, "completed": 0, "failed": 3}
        rows = batches.path(await batches.file("a", found["error_file_id"])).read_text().splitlines()
        assert [json.loads(row)["response"]["status_code"] for row in rows] == [503, 500, 400]
        working.cancel()
        await batches.close()

    monkeypatch.setattr("pennyweight.serve.gateway.batches.PAUSE_SECONDS", 0.01)
    asyncio.run(work())


@pytest.mark.slow
def test_a_full_disk_is_told_and_what_was_done_is_asked_for_again(tmp_path: Path) -> None:
    async def work() -> None:
        asked: list[str] = []

        async def answer(ask: Ask) -> AsyncGenerator[Piece]:
            asked.append(ask.tenant.name)
            yield Head(200, "application/json")
            yield json.dumps({"text": "x" * 20_000}).encode()

        batches = Batches(tmp_path, answer, room=lambda: 1, pool_for=lambda _: a_pool(), tenant_of=lambda _: None)
        store: BatchStore = batches._store
        file = await batches.upload("a", "f", "batch", io.BytesIO(lines(3)))
        made = await batches.create("a", {"endpoint": ENDPOINT, "input_file_id": file.id})
        pages = store._base.execute("PRAGMA page_count").fetchone()[0]
        store._base.execute(f"PRAGMA max_page_count = {pages + 1}")  # as far as SQLite can tell, the disk is full
        with pytest.raises(Refused, match="nothing was kept"):
            await batches.create("a", {"endpoint": ENDPOINT, "input_file_id": file.id, "metadata": {"x": "y" * 50_000}})
        working = asyncio.create_task(batches.work())
        while not asked:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert (await batches.batch("a", made["id"]))["request_counts"]["completed"] == 0
        store._base.execute(f"PRAGMA max_page_count = {pages + 1000}")
        for _ in range(1000):
            if (found := await batches.batch("a", made["id"]))["status"] == "completed":
                break
            await asyncio.sleep(0.01)
        assert found["request_counts"] == {"total": 3, "completed": 3, "failed": 0}
        working.cancel()
        await batches.close()

    asyncio.run(work())


def test_lists_come_in_pages_and_files_can_expire(keeping: Running) -> None:
    client = keeping.client()
    expires = {"anchor": "created_at", "seconds": 3600}
    files = [client.files.create(file=(f"{n}", b"x"), purpose="batch", expires_after=expires) for n in range(3)]
    assert files[0].expires_at == files[0].created_at + 3600
    first = client.files.list(limit=2)
    assert [file.id for file in first.data] == [files[2].id, files[1].id] and first.has_more
    assert client.files.list(after=files[1].id).data[0].id == files[0].id
    with pytest.raises(openai.BadRequestError, match="limit"):
        client.files.list(limit=0)
    with pytest.raises(openai.BadRequestError, match="expires_after"):
        client.files.create(file=("x", b"x"), purpose="batch", expires_after=expires | {"seconds": 5})


def test_a_batch_of_responses_tells_its_usage(keeping: Running) -> None:
    client = keeping.client()
    rows = [
        {
            "custom_id": f"n{n}",
            "method": "POST",
            "url": "/v1/responses",
            "body": {"model": "model", "input": "Say it", "max_output_tokens": 5},
        }
        for n in range(3)
    ]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    file = client.files.create(file=("r.jsonl", content), purpose="batch")
    made = client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/responses",
        completion_window="24h",
        output_expires_after={"anchor": "created_at", "seconds": 3600},
    )
    keeping.until(lambda: client.batches.retrieve(made.id).status == "completed")
    ended = client.batches.retrieve(made.id)
    assert ended.usage.output_tokens == 15 and ended.usage.total_tokens > 15
    results = client.files.retrieve(ended.output_file_id)
    assert results.expires_at == results.created_at + 3600
    assert '"object": "response"' in client.files.content(ended.output_file_id).text


def test_each_tenant_has_its_turn(tmp_path: Path) -> None:
    store = BatchStore(tmp_path)
    many = store.add_batch("many", ENDPOINT, "f", {}, [(f"n{n}", "{}") for n in range(50)], [])
    store.add_batch("few", ENDPOINT, "f", {}, [(f"n{n}", "{}") for n in range(3)], [])
    assert Counter(item.tenant for item in store.waiting(6, set())) == {"many": 3, "few": 3}
    running = {(many, line) for line in range(4)}
    assert Counter(item.tenant for item in store.waiting(3, running)) == {"few": 3}
    assert Counter(item.tenant for item in store.waiting(3, running, ["few"])) == {"many": 3}
    store.close()


def test_one_gateway_uses_a_state(tmp_path: Path) -> None:
    store = BatchStore(tmp_path)
    with pytest.raises(StorageError, match="Another gateway"):
        BatchStore(tmp_path)
    store.close()
    BatchStore(tmp_path).close()
