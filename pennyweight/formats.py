"""The files that people keep: deployment.json, service.json, evidence.json, mixture.json and study.jsonl.
docs/formats.md describes them, and `schemas/` holds their JSON schemas.

Each carries `schema_version`. A file without one is of release 0.1.0 and is read by legacy.py; one of a later release
is read as far as this one understands it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pennyweight import codec, legacy
from pennyweight.deployment import Deployment
from pennyweight.errors import StorageError
from pennyweight.evidence import Evidence
from pennyweight.mixture_evidence import MixtureEvidence
from pennyweight.paths import absolute
from pennyweight.service import CachePolicy, Service
from pennyweight.study import Trial

SCHEMA_VERSION = 2
DEPLOYMENT_FILE, SERVICE_FILE, EVIDENCE_FILE = "deployment.json", "service.json", "evidence.json"
MIXTURE_FILE = "mixture.json"
T = TypeVar("T")


@dataclass(frozen=True)
class Format:
    """One file format. `from_first` converts release 0.1.0's keys to today's."""

    cls: type[Any]
    file: str
    from_first: Callable[[dict[str, Any]], dict[str, Any]] | None
    mend: str


FORMATS = {
    "deployment": Format(
        Deployment, DEPLOYMENT_FILE, legacy.deployment, "give what `pw optimize -o` wrote, or a model"
    ),
    "service": Format(Service, SERVICE_FILE, None, "give a directory with a service.json"),
    "evidence": Format(Evidence, EVIDENCE_FILE, legacy.evidence, "give a directory that `pw optimize -o` wrote"),
    "mixture": Format(MixtureEvidence, MIXTURE_FILE, None, "give a directory that `pw optimize --mix … -o` wrote"),
    "trial": Format(Trial, "study.jsonl", legacy.trial, "start again without --resume"),
}


def read_service(place: Path) -> Service:
    """The service that a directory or a file describes; a deployment reads as a service of one.

    Raises `StorageError` where there is none, or where it is not as docs/formats.md says."""
    place = absolute(place)
    file = place
    if place.is_dir():
        file = place / (SERVICE_FILE if (place / SERVICE_FILE).exists() else DEPLOYMENT_FILE)
        _refuse_other_directory(place, file)
    if _read(file, FORMATS["deployment"].mend).keys() >= {"members", "routes"}:
        service: Service = read("service", file)
        members = {name: _with_absolute_path(one, file.parent) for name, one in service.members.items()}
        return replace(service, members=members, cache=_with_absolute_place(service.cache, file.parent))
    return Service.of(_with_absolute_path(read("deployment", file), file.parent))


def _refuse_other_directory(place: Path, file: Path) -> None:
    """A model, or a search without a result, is no service: say which of them it is."""
    if file.exists():
        return
    if (place / EVIDENCE_FILE).exists():
        outcome = read("evidence", place / EVIDENCE_FILE).outcome
        raise StorageError(f"{place} holds no service: its search ended {outcome}; see its report.html.")
    if (place / FORMATS["trial"].file).exists() or (place / "members.jsonl").exists():
        raise StorageError(
            f"{place} holds a search that has not ended: go on with `pw optimize … -o {place} --resume`."
        )
    files = sorted(place.glob("*.gguf"))
    if files:
        raise StorageError(f"{place} is no service and holds {files[0].name}: give that file itself.")
    if (place / "config.json").exists():
        raise StorageError(f"{place} is a model, not a service: add --engine NAME (`pw engines` lists them).")


def write_deployment(directory: Path, deployment: Deployment) -> Path:
    return write("deployment", directory / DEPLOYMENT_FILE, deployment)


def read(name: str, file: Path) -> Any:
    """The value of this format that a file holds."""
    return value_of(name, _read(file, FORMATS[name].mend), str(file))


def write(name: str, file: Path, value: Any) -> Path:
    assert isinstance(value, FORMATS[name].cls)
    file.write_text(json.dumps(as_json(value), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return file


def as_json(value: Any) -> dict[str, Any]:
    return {"schema_version": SCHEMA_VERSION, **codec.plain(value)}


def value_of(name: str, data: Mapping[str, Any], where: str) -> Any:
    """The value of this format from parsed JSON, of any release."""
    found = dict(data)
    version = found.pop("schema_version", 1)
    form = FORMATS[name]
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise StorageError(f"{where}: schema_version {version!r} is no release of the format: {form.mend}.")
    if version == 1 and form.from_first is not None:
        try:
            found = form.from_first(found)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StorageError(f"{where} is damaged ({type(error).__name__}: {error}): {form.mend}.") from None
    return codec.value_of(form.cls, found, where, newer=version > SCHEMA_VERSION)


def _with_absolute_path(deployment: Deployment, folder: Path) -> Deployment:
    path = Path(deployment.model_path)
    return deployment if path.is_absolute() else replace(deployment, model_path=str(absolute(folder / path)))


def _with_absolute_place(cache: CachePolicy, folder: Path) -> CachePolicy:
    if not cache.place or "://" in cache.place:
        return cache
    return replace(cache, place=str(absolute(folder / cache.place)))


def _read(file: Path, mend: str) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise StorageError(f"{file} does not exist: {mend}.") from None
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{file} is no JSON ({error}): {mend}.") from None
    if not isinstance(value, dict):
        raise StorageError(f"{file} holds no JSON object: {mend}.")
    return value


def evidence_beside(place: Path) -> Evidence | None:
    """What `pw optimize` left beside a deployment, if it did."""
    folder = place if place.is_dir() else place.parent
    file = folder / EVIDENCE_FILE
    if not file.exists():
        return None
    found: Evidence = read("evidence", file)
    return found


def schema(name: str) -> dict[str, Any]:
    """The JSON schema of this format's file; of the study, of one trial."""
    made = codec.schema(FORMATS[name].cls)
    made["properties"] = {"schema_version": {"const": SCHEMA_VERSION}, **made["properties"]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}


def write_schemas(folder: Path) -> None:
    """One file a format; run as `python -m pennyweight.formats` after a change to one of its classes."""
    folder.mkdir(exist_ok=True)
    for name in FORMATS:
        (folder / f"{name}.json").write_text(json.dumps(schema(name), indent=1) + "\n")


if __name__ == "__main__":
    write_schemas(Path(__file__).with_name("schemas"))
