"""Files and batches on disk: one SQLite file and a folder. What is written here survives a kill at any moment.

An item is waiting or done, and nothing else: what was running when the gateway ended is waiting again. All calls block;
they belong to one thread.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import time
import uuid
from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pennyweight.errors import StorageError

TABLES = """
CREATE TABLE IF NOT EXISTS files (
    id TEXT PRIMARY KEY, tenant TEXT, filename TEXT, purpose TEXT, bytes INTEGER, created INTEGER);
CREATE TABLE IF NOT EXISTS batches (
    id TEXT PRIMARY KEY, tenant TEXT, endpoint TEXT, input TEXT, status TEXT, created INTEGER, ended INTEGER,
    output TEXT, errors TEXT, metadata TEXT, faults TEXT, counts TEXT);
CREATE TABLE IF NOT EXISTS items (
    batch TEXT, line INTEGER, name TEXT, body TEXT, status INTEGER, answer TEXT,
    PRIMARY KEY (batch, line)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS waiting ON items (batch, line) WHERE status IS NULL;
"""
ADDED = (("files", "expires"), ("batches", "lasts"), ("batches", "cancelling"))  # since an earlier release
DAY_SECONDS = 24 * 3600
OPEN = ("in_progress", "cancelling")


@dataclass(frozen=True)
class Item:
    """One line of a batch's input."""

    batch: str
    line: int
    name: str
    tenant: str
    endpoint: str
    body: str


@dataclass(frozen=True)
class StoredFile:
    id: str
    tenant: str
    filename: str
    purpose: str
    bytes: int
    created: int
    expires: int | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "expires_at": self.expires,
            "id": self.id,
            "object": "file",
            "bytes": self.bytes,
            "created_at": self.created,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
        }


class BatchStore:
    def __init__(self, directory: Path) -> None:
        self._folder = directory / "files"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock = (directory / "lock").open("w")
        except OSError as error:
            raise StorageError(
                f"{directory} cannot hold files and batches ({error.strerror}): name a directory with --state."
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise StorageError(
                f"Another gateway uses {directory}: stop it, or give this one a --state of its own."
            ) from None
        try:
            self._base = sqlite3.connect(directory / "queue.db", isolation_level=None, check_same_thread=False)
            self._base.execute("PRAGMA journal_mode=WAL")
            self._base.execute("PRAGMA synchronous=FULL")
            self._base.executescript(TABLES)
            for table, column in ADDED:
                if column not in [row[1] for row in self._base.execute(f"PRAGMA table_info({table})")]:
                    self._base.execute(f"ALTER TABLE {table} ADD COLUMN {column} INTEGER")
        except sqlite3.Error as error:
            raise StorageError(f"{directory / 'queue.db'} cannot be used ({error}): give another --state.") from None
        self._base.row_factory = sqlite3.Row

    def close(self) -> None:
        self._base.close()
        self._lock.close()

    # -- files --

    def path(self, file_id: str) -> Path:
        return self._folder / file_id

    def add_file(
        self, tenant: str, filename: str, purpose: str, content: Iterator[bytes], lasts: int | None = None
    ) -> StoredFile:
        """Inserted into the table only when it is complete and on disk. `lasts`: seconds after which it is gone."""
        made = self._written(tenant, filename, purpose, content)
        made = replace(made, expires=made.created + lasts) if lasts else made
        try:
            self._name_file(made)
        except BaseException:
            self.path(made.id).unlink(missing_ok=True)
            raise
        return made

    def _written(self, tenant: str, filename: str, purpose: str, content: Iterator[bytes]) -> StoredFile:
        file_id, size = f"file-{uuid.uuid4().hex}", 0
        path = self.path(file_id)
        try:
            with path.open("wb") as out:
                for piece in content:
                    size += out.write(piece)
                out.flush()
                os.fsync(out.fileno())
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return StoredFile(file_id, tenant, filename, purpose, size, int(time.time()))

    def _name_file(self, file: StoredFile) -> None:
        row = (file.id, file.tenant, file.filename, file.purpose, file.bytes, file.created, file.expires)
        self._base.execute("INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def remove_expired(self) -> None:
        rows = self._base.execute("SELECT tenant, id FROM files WHERE expires < ?", (int(time.time()),)).fetchall()
        for row in rows:
            self.remove_file(row["tenant"], row["id"])

    def file(self, tenant: str, file_id: str) -> StoredFile | None:
        self.remove_expired()
        row = self._base.execute("SELECT * FROM files WHERE id = ? AND tenant = ?", (file_id, tenant)).fetchone()
        return StoredFile(*row) if row else None

    def files(self, tenant: str) -> list[StoredFile]:
        """The latest first."""
        self.remove_expired()
        rows = self._base.execute("SELECT * FROM files WHERE tenant = ? ORDER BY created DESC, rowid DESC", (tenant,))
        return [StoredFile(*row) for row in rows]

    def remove_file(self, tenant: str, file_id: str) -> bool:
        gone = self._base.execute("DELETE FROM files WHERE id = ? AND tenant = ?", (file_id, tenant)).rowcount > 0
        if gone:
            self.path(file_id).unlink(missing_ok=True)
        return gone

    # -- batches --

    def add_batch(
        self,
        tenant: str,
        endpoint: str,
        file_id: str,
        metadata: Mapping[str, Any],
        items: Sequence[tuple[str, str]],
        faults: Sequence[Mapping[str, Any]],
        lasts: int | None = None,
    ) -> str:
        """In one transaction with all its items (name, body); with faults it has failed already. `lasts`: seconds after
        which its results are gone."""
        batch = f"batch_{uuid.uuid4().hex}"
        now = int(time.time())
        status, ended = ("failed", now) if faults else ("in_progress", None)
        with self._transaction():
            self._base.execute(
                "INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?, ?, NULL, NULL, ?, ?, NULL, ?, NULL)",
                (batch, tenant, endpoint, file_id, status, now, ended, json.dumps(metadata), json.dumps(faults), lasts),
            )
            rows = [(batch, line, name, body, None, None) for line, (name, body) in enumerate(items)]
            self._base.executemany("INSERT INTO items VALUES (?, ?, ?, ?, ?, ?)", rows)
        return batch

    def batch(self, tenant: str, batch: str) -> dict[str, Any] | None:
        row = self._base.execute("SELECT * FROM batches WHERE id = ? AND tenant = ?", (batch, tenant)).fetchone()
        return self._as_json(row) if row else None

    def batches(self, tenant: str) -> list[dict[str, Any]]:
        rows = self._base.execute("SELECT * FROM batches WHERE tenant = ? ORDER BY created DESC, rowid DESC", (tenant,))
        return [self._as_json(row) for row in rows.fetchall()]

    def waiting(self, most: int, without: set[tuple[str, int]], paused: Collection[str] = ()) -> list[Item]:
        """Items that are not done and not among these, of tenants that are not paused: the oldest of each tenant, and
        the same number of each as far as there are."""
        running = Counter(batch for batch, _ in without)
        shares: dict[str, int] = {}
        by_tenant: dict[str, deque[Item]] = {}
        batches = self._base.execute("SELECT * FROM batches WHERE status = 'in_progress' ORDER BY created, rowid")
        for batch in batches.fetchall():
            tenant = batch["tenant"]
            shares[tenant] = shares.get(tenant, 0) + running[batch["id"]]
            own = by_tenant.setdefault(tenant, deque())
            if tenant in paused or len(own) >= most:
                continue
            rows = self._base.execute(
                "SELECT line, name, body FROM items WHERE batch = ? AND status IS NULL ORDER BY line LIMIT ?",
                (batch["id"], most + running[batch["id"]]),
            )
            own += [
                Item(batch["id"], row["line"], row["name"], tenant, batch["endpoint"], row["body"])
                for row in rows
                if (batch["id"], row["line"]) not in without
            ]
        found: list[Item] = []
        while len(found) < most and (left := [tenant for tenant, own in by_tenant.items() if own]):
            tenant = min(left, key=lambda name: shares[name])
            shares[tenant] += 1
            found.append(by_tenant[tenant].popleft())
        return found

    def finish(self, item: Item, status: int, answer: str) -> None:
        """Once: what is done stays as it is."""
        self._base.execute(
            "UPDATE items SET status = ?, answer = ? WHERE batch = ? AND line = ? AND status IS NULL",
            (status, answer, item.batch, item.line),
        )

    def cancel(self, tenant: str, batch: str) -> None:
        self._base.execute(
            "UPDATE batches SET status = 'cancelling', cancelling = ?"
            " WHERE id = ? AND tenant = ? AND status = 'in_progress'",
            (int(time.time()), batch, tenant),
        )

    def end_whole(self, running: set[str]) -> None:
        """Write the results of batches of which nothing is waiting; of cancelled ones when nothing of them runs."""
        rows = self._base.execute(f"SELECT * FROM batches WHERE status IN {OPEN}").fetchall()
        for row in rows:
            left = self._base.execute(
                "SELECT 1 FROM items WHERE batch = ? AND status IS NULL LIMIT 1", (row["id"],)
            ).fetchone()
            if row["id"] not in running and (row["status"] == "cancelling" or not left):
                self._end(row)

    def _end(self, row: sqlite3.Row) -> None:
        """The results' files, then all that names them in one transaction: a kill between the two leaves
        unreferenced files."""
        made: list[StoredFile | None] = []
        for kind, which in (("output", "status = 200"), ("error", "status <> 200")):
            done = self._base.execute(f"SELECT * FROM items WHERE batch = ? AND {which} ORDER BY line", (row["id"],))
            lines = [_result(item) for item in done]
            content = iter([line.encode() + b"\n" for line in lines])
            name = f"{row['id']}_{kind}.jsonl"
            made.append(self._written(row["tenant"], name, "batch_output", content) if lines else None)
        status = "cancelled" if row["status"] == "cancelling" else "completed"
        names = [file.id if file else None for file in made]
        with self._transaction():
            for file in filter(None, made):
                self._name_file(replace(file, expires=file.created + row["lasts"]) if row["lasts"] else file)
            self._base.execute(
                "UPDATE batches SET status = ?, ended = ?, output = ?, errors = ?, counts = ? WHERE id = ?",
                (status, int(time.time()), *names, json.dumps(self._summary(row["id"])), row["id"]),
            )
            self._base.execute("DELETE FROM items WHERE batch = ?", (row["id"],))

    def progress(self) -> dict[str, int]:
        """Of all batches that are not ended, by indexes alone."""
        rows = self._base.execute(
            "SELECT (SELECT max(line) + 1 FROM items WHERE batch = id),"
            " (SELECT count(*) FROM items WHERE batch = id AND status IS NULL)"
            f" FROM batches WHERE status IN {OPEN}"
        ).fetchall()
        total = sum(row[0] for row in rows)
        return {"open": len(rows), "done": total - sum(row[1] for row in rows), "total": total}

    def _counted(self, batch: str) -> dict[str, int]:
        counted = self._base.execute(
            "SELECT count(*), coalesce(sum(status = 200), 0), coalesce(sum(status <> 200), 0)"
            " FROM items WHERE batch = ?",
            (batch,),
        ).fetchone()
        return dict(zip(("total", "completed", "failed"), counted, strict=True))

    def _summary(self, batch: str) -> dict[str, Any]:
        """Counts, and the tokens that all answers took."""
        usage = dict.fromkeys(("input_tokens", "output_tokens", "total_tokens"), 0)
        for row in self._base.execute("SELECT answer FROM items WHERE batch = ? AND status = 200", (batch,)):
            told = _parsed(row["answer"]).get("usage") or {}
            usage["input_tokens"] += told.get("prompt_tokens", told.get("input_tokens", 0))
            usage["output_tokens"] += told.get("completion_tokens", told.get("output_tokens", 0))
            usage["total_tokens"] += told.get("total_tokens", 0)
        return {**self._counted(batch), "usage": usage}

    def _as_json(self, row: sqlite3.Row) -> dict[str, Any]:
        counts = json.loads(row["counts"]) if row["counts"] else self._counted(row["id"])
        usage = counts.pop("usage", None)
        ended = {f"{row['status']}_at": row["ended"]} if row["ended"] else {}
        faults = json.loads(row["faults"])
        return {
            "id": row["id"],
            "object": "batch",
            "endpoint": row["endpoint"],
            "input_file_id": row["input"],
            "completion_window": "24h",
            "status": row["status"],
            "created_at": row["created"],
            "in_progress_at": row["created"],
            "output_file_id": row["output"],
            "error_file_id": row["errors"],
            "metadata": json.loads(row["metadata"]),
            "errors": {"object": "list", "data": faults} if faults else None,
            "request_counts": counts,
            "usage": usage,
            "expires_at": row["created"] + DAY_SECONDS,
            "cancelling_at": row["cancelling"],
            **ended,
        }

    def _transaction(self) -> sqlite3.Connection:
        self._base.execute("BEGIN IMMEDIATE")
        return self._base  # as a context it commits, or rolls back


def _result(item: sqlite3.Row) -> str:
    """A line of a batch's output, as OpenAI writes it."""
    number = f"{item['batch']}-{item['line']}"
    try:
        body = json.loads(item["answer"])
    except ValueError:  # an engine's refusal may be any text
        body = item["answer"]
    response = {"status_code": item["status"], "request_id": number, "body": body}
    return json.dumps({"id": number, "custom_id": item["name"], "response": response, "error": None})


def _parsed(answer: str) -> dict[str, Any]:
    try:
        value = json.loads(answer)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
