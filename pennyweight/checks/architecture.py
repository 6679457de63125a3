"""Does a checkpoint hold what its config says? Asked of transformers itself, in a process of its own, because importing
it takes seconds and hundreds of megabytes. The answer is kept by config and tensor shapes, so that it is asked once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from pennyweight.chat_template import FILE, MORE, OLD_FILE
from pennyweight.checks.probes import PROBES
from pennyweight.checks.remembered import keep, read_kept
from pennyweight.checks.safetensors_files import read_header, read_places, weight_files
from pennyweight.errors import ModelError
from pennyweight.model import canonical_hash
from pennyweight.paths import cache_directory
from pennyweight.tokenizer import Tokenizer

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
PATIENCE_SECONDS = 300
REVISION = 1  # of what is asked
TOKENIZER_FILES = ("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", FILE, OLD_FILE)
WRAPPERS = ("_orig_mod.", "base_model.model.", "module.", "_fsdp_wrapped_module.")
NAMED = 3
LEAST_NAMED = 0.5  # share of the embedding's rows; padding is a few hundred rows
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
LONGEST_COMPARED = 1 << 24  # bytes of two tensors that are read at a time


def check_made(directory: Path) -> None:
    """Raise `ModelError` where transformers' class for the config that a job has just written would fill in a tensor,
    leave one out, or find one of another shape. Asked in this process, which has transformers already; the tokenizer
    was checked when the source was opened."""
    from pennyweight.checks.stock import tensors

    try:
        _check_tensors(directory, tensors(directory))
    except ModelError as error:
        reason = str(error).replace(f"{directory}", "the result").rpartition(": ")[0]
        raise ModelError(
            f"This technique cannot change this architecture: {reason}. Take another amount or technique."
        ) from None


def check_architecture(directory: Path) -> None:
    """Raise `ModelError` where transformers' class for this config would fill in a tensor, leave one out, or find one
    of another shape, and where a head would be ignored."""
    shapes = {name: entry for file in weight_files(directory) for name, entry in read_header(file).items()}
    found = _report(directory, shapes)
    _check_tensors(directory, found)
    highest = max(Tokenizer(directory).backend.get_vocab().values(), default=0)
    if highest >= found["embedding_rows"]:
        raise ModelError(
            f"{directory}: tokenizer.json has a token {highest} and the embedding {found['embedding_rows']} rows: a "
            "request with it would end the engine, so take the tokenizer that belongs to the model."
        )
    if highest < LEAST_NAMED * found["embedding_rows"]:
        raise ModelError(
            f"{directory}: tokenizer.json names {highest + 1} tokens of the embedding's {found['embedding_rows']}: "
            "take the tokenizer that belongs to the model."
        )
    check_prompts(directory, found["prompts"])
    if found["tied"] and {HEAD, EMBEDDING} <= shapes.keys() and not _same(directory, HEAD, EMBEDDING):
        raise ModelError(
            f"{directory}: config.json says that the head is the embedding (tie_word_embeddings), and the weights hold "
            f"another {HEAD}: set tie_word_embeddings to false, or remove the tensor."
        )


def _check_tensors(directory: Path, found: Mapping[str, Any]) -> None:
    if "error" in found:
        raise ModelError(f"transformers cannot open {directory} ({found['error']}): give a model that it knows.")
    kind, mend = found["class"], "copy the whole checkpoint, or take the config.json that belongs to it"
    if found["missing"]:
        raise ModelError(f"{directory} lacks {_some(found['missing'])}, which a {kind} needs: {mend}.")
    if found["mismatched"]:
        name, ours, theirs = found["mismatched"][0]
        raise ModelError(f"{directory}: {name} has shape {ours} where config.json asks for {theirs}: {mend}.")
    if found["unexpected"]:
        raise ModelError(
            f"{directory} holds {_some(found['unexpected'])}, which a {kind} of this config.json would ignore: {mend}."
        )


def check_prompts(directory: Path, theirs: Sequence[Sequence[int] | None]) -> None:
    """Raise `ModelError` where our tokenizer and template make other tokens of a probe than transformers' do
    (`theirs`): every answer would be to another prompt."""
    tokenizer = Tokenizer(directory)
    for probe, wanted in zip(PROBES, theirs, strict=True):
        if wanted is None or not (isinstance(probe, str) or tokenizer.has_template):
            continue
        ours = tokenizer.encode(probe) if isinstance(probe, str) else tokenizer.chat(probe)
        if ours != list(wanted):
            place = next((n for n, pair in enumerate(zip(ours, wanted, strict=False)) if pair[0] != pair[1]), len(ours))
            raise ModelError(
                f"{directory}: transformers reads {probe!r} as other tokens than we do, from place {place} on "
                f"({list(wanted[place : place + 4])} and {ours[place : place + 4]}). Save the tokenizer again with "
                "transformers (AutoTokenizer.from_pretrained, save_pretrained), and tell us if that does not mend it."
            )


def wrapper_of(names: Sequence[str]) -> str:
    """What a trainer put before every tensor's name, such as `_orig_mod.`; empty where nothing is known to be."""
    found = ""
    while True:
        rest = [name.removeprefix(found) for name in names]
        more = next((prefix for prefix in WRAPPERS if rest and all(name.startswith(prefix) for name in rest)), "")
        if not more:
            return found
        found += more


def _report(directory: Path, shapes: Mapping[str, Any]) -> dict[str, Any]:
    config = (directory / "config.json").read_text(encoding="utf-8")
    files = [file for name in (*TOKENIZER_FILES, f"{MORE}/*.jinja") for file in sorted(directory.glob(name))]
    texts = [file.read_text(encoding="utf-8", errors="replace") for file in files]
    key = canonical_hash([REVISION, config, texts, sorted(shapes.items()), metadata.version("transformers")])
    kept = cache_directory() / "architectures" / f"{key}.json"
    found = read_kept(kept)
    if not found:
        found = _ask(directory)
        keep(kept, found)
    return found


def _ask(directory: Path) -> dict[str, Any]:
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "pennyweight.checks", str(directory)],
            stdin=subprocess.DEVNULL,  # transformers asks whether it may run a checkpoint's own code: never
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            env={**os.environ, **OFFLINE},
            cwd=directory,
            check=False,
        )
        return dict(json.loads(ran.stdout.splitlines()[-1]))
    except subprocess.TimeoutExpired:
        raise ModelError(f"Looking at {directory} with transformers took longer than {PATIENCE_SECONDS} s.") from None
    except (IndexError, ValueError):
        last = (ran.stderr.strip().splitlines() or ["it wrote nothing"])[-1]
        raise ModelError(f"transformers cannot open {directory}: {last}") from None


def _same(directory: Path, first: str, second: str) -> bool:
    """Do two tensors hold the same bytes?"""
    places = {}
    for file in weight_files(directory):
        for name, place in read_places(file).items():
            if name in (first, second):
                places[name] = (file, place.begin, place.end)
    (one, begin, end), (other, start, stop) = places[first], places[second]
    if end - begin != stop - start:
        return False
    with one.open("rb") as left, other.open("rb") as right:
        left.seek(begin)
        right.seek(start)
        for done in range(0, end - begin, LONGEST_COMPARED):
            size = min(LONGEST_COMPARED, end - begin - done)
            if left.read(size) != right.read(size):
                return False
    return True


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMED])
    return shown if len(names) <= NAMED else f"{len(names)} tensors or more ({shown}, …)"
