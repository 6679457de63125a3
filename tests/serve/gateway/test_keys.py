"""Keys: hashes at rest."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pennyweight.errors import StorageError, UsageError
from pennyweight.serve.gateway import keys as module
from pennyweight.serve.gateway.keys import Keys, add, read, remove
from pennyweight.serve.gateway.tenant import Tenant


def test_a_key_is_nowhere_but_with_its_owner(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    key = add(file, Tenant("alice"))
    assert key not in file.read_text() and len(key) > 40
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    keys = Keys(file)
    found = keys.tenant(f"Bearer {key}")
    assert found is not None and found.name == "alice"
    for wrong in ("", key, f"Basic {key}", f"Bearer {key}x", "Bearer ", "Bearer \ud800"):
        assert keys.tenant(wrong) is None


def test_without_a_file_anybody_may_ask() -> None:
    found = Keys(None).tenant("")
    assert found is not None and found.name == "anybody"


def test_names_are_their_own_and_can_be_removed(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    add(file, Tenant("alice"))
    with pytest.raises(UsageError, match="alice"):
        add(file, Tenant("alice"))
    with pytest.raises(UsageError, match="it has alice"):
        remove(file, "bob")
    remove(file, "alice")
    assert read(file) == []
    with pytest.raises(UsageError, match="priority"):
        add(file, Tenant("eve", priority=-1))


@pytest.mark.parametrize(
    "text", ["", "[]", '{"keys": [{"name": "a"}]}', '{"keys": [{"nome": 1}]}', json.dumps({"keys": 3})]
)
def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys.json"
    file.write_text(text)
    with pytest.raises(StorageError, match=r"keys\.json"):
        read(file)


def test_keys_written_by_many_processes_at_once_are_all_there(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    code = "import sys; from pathlib import Path; from pennyweight.serve.gateway import keys, tenant;"
    code += "[keys.add(Path(sys.argv[1]), tenant.Tenant(f'{sys.argv[2]}-{n}')) for n in range(5)]"
    running = [subprocess.Popen([sys.executable, "-c", code, str(file), str(n)]) for n in range(8)]
    assert [process.wait(60) for process in running] == [0] * 8
    assert len(read(file)) == 40


def test_keys_act_while_the_gateway_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECK_SECONDS", 0.0)
    file = tmp_path / "keys.json"
    first = add(file, Tenant("a"))
    keys = Keys(file)
    second = add(file, Tenant("b", tokens_per_minute=5))
    found = keys.tenant(f"Bearer {second}")
    assert found is not None and found.tokens_per_minute == 5
    remove(file, "a")
    assert keys.tenant(f"Bearer {first}") is None
    file.write_text("damaged")
    assert keys.tenant(f"Bearer {second}") is not None  # those that were read last


@pytest.mark.parametrize("wrong", [{"requests_per_minute": -1}, {"tokens_per_minute": -5}, {"priority": -1}])
def test_limits_below_nothing_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="not possible"):
        add(tmp_path / "keys.json", Tenant("a", **wrong))
    row = {"name": "a", "hash": "0" * 64, "requests_per_minute": "60"}
    (tmp_path / "text.json").write_text(json.dumps({"keys": [row]}))
    with pytest.raises(StorageError, match="whole numbers"):
        read(tmp_path / "text.json")
