"""The training texts of distillation: what the teacher writes after each prompt. Runs in the job process."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pennyweight import checkpoint
from pennyweight.errors import ModelError, UsageError
from pennyweight.json_lines import JsonLines
from pennyweight.model import Model, canonical_hash
from pennyweight.techniques.base import digest, progress
from pennyweight.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

    from pennyweight.techniques.distill_settings import DistillSettings

MIN_PROMPTS = 8
TOGETHER = 64  # texts generated in one batch
DRAWN = 2  # version: increase it when the same seed gives other texts


@dataclass(frozen=True)
class Text:
    """Token ids of the student's vocabulary; learning begins after the first `prompt` tokens."""

    prompt: int
    tokens: tuple[int, ...]


def shared_tokens(student: Path, teacher: Path) -> list[tuple[int, int]] | None:
    """(student's id, teacher's id) of each of the student's tokens; None where vocabularies and heads are the same.
    Refuses a student whose tokens the teacher does not have: their distributions cannot be compared."""
    ours, theirs = (Tokenizer(path).backend for path in (student, teacher))
    own, other = ours.get_vocab(), theirs.get_vocab()
    rows = [Model.config_of(path)["vocab_size"] for path in (student, teacher)]
    if own == other and rows[0] == rows[1]:
        return None
    missing = [token for token in own if token not in other]
    if missing:
        raise ModelError(
            f"Teacher and student do not match: {len(missing)} of the student's tokens ({missing[0]!r}, …) are unknown "
            "to the teacher. Distil from the model that the student was made from."
        )
    return [(number, other[token]) for token, number in own.items() if number < rows[0] and other[token] < rows[1]]


def written(settings: DistillSettings, source: Path, folder: Path) -> list[Text]:
    """Generated in batches, each with its own seed, and appended to a file, so that an interrupted run resumes and
    every student of this teacher reads the same texts."""
    teacher = Path(settings.teacher)
    wanted = [
        settings.teacher_id,
        digest(settings.prompts),
        settings.continuations,
        settings.temperature,
        settings.length,
        settings.seed,
        settings.mixed_precision,
        DRAWN,
    ]
    folder.mkdir(exist_ok=True)
    file = folder / f"{canonical_hash(wanted)}.jsonl"
    jobs = [prompt for prompt in short_enough(settings, teacher) for _ in range(settings.continuations)]
    batches = [jobs[start : start + TOGETHER] for start in range(0, len(jobs), TOGETHER)]
    with checkpoint.locked(file.with_suffix(".lock")):
        lines = JsonLines(file)
        written = lines.read()
        if len(written) < len(batches):
            write_batches(settings, teacher, lines, len(written), batches)
            written = lines.read()
    ours, theirs = Tokenizer(source).backend, Tokenizer(teacher).backend
    ids = shared_tokens(source, teacher)
    own = None if ids is None else {theirs_id: own_id for own_id, theirs_id in ids}
    found = []
    for batch in written:
        for prompt, answer in batch:
            found.append(translated(prompt, answer, own, theirs, ours))
    return [text for text in found if len(text.tokens) > text.prompt]


def translated(
    prompt: Sequence[int], answer: Sequence[int], own: dict[int, int] | None, theirs: Any, ours: Any
) -> Text:
    """The text in the student's tokens. If it lacks one of them, its own tokenizer encodes the text again."""
    if own is None:
        return Text(len(prompt), (*prompt, *answer))
    halves = []
    for tokens in (prompt, answer):
        if all(token in own for token in tokens):
            halves.append([own[token] for token in tokens])
        else:
            text = theirs.decode(list(tokens), skip_special_tokens=False)
            halves.append(ours.encode(text, add_special_tokens=False).ids)
    return Text(len(halves[0]), (*halves[0], *halves[1]))


def write_batches(
    settings: DistillSettings, teacher: Path, lines: JsonLines, done: int, batches: Sequence[Sequence[str]]
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = Tokenizer(teacher).backend
    dtype = torch.bfloat16 if settings.mixed_precision else "auto"
    model = AutoModelForCausalLM.from_pretrained(teacher, dtype=dtype).eval()
    lines.cut()
    for number in range(done, len(batches)):
        torch.manual_seed(settings.seed * 1_000_003 + number)
        lines.append(continue_texts(model, tokenizer, batches[number], settings))
        progress(number + 1, len(batches), "teacher writes")


def continue_texts(
    model: Any, tokenizer: Any, prompts: Sequence[str], settings: DistillSettings
) -> list[tuple[list[int], list[int]]]:
    """(prompt tokens, continuation) of each, sampled; the end token stays, so that the student learns to stop."""
    start = model.config.bos_token_id if model.config.bos_token_id is not None else 0
    heads = [prompt_tokens(tokenizer, prompt, start) for prompt in prompts]
    rows = generate(model, heads, settings)
    return list(zip(heads, rows, strict=True))


def prompt_tokens(tokenizer: Any, prompt: str, start: int) -> list[int]:
    """With the special tokens that serving would put before it, once: a rendered chat may hold them already."""
    with_special: list[int] = tokenizer.encode(prompt).ids
    plain: list[int] = tokenizer.encode(prompt, add_special_tokens=False).ids
    doubled = len(with_special) > len(plain) > 0 and with_special[0] == plain[0]
    return (plain if doubled else with_special) or [start]


def short_enough(settings: DistillSettings, teacher: Path) -> list[str]:
    """The prompts that leave half of the length to the answer. A truncated one would teach to continue the question."""
    tokenizer = Tokenizer(teacher).backend
    lengths = [len(prompt_tokens(tokenizer, prompt, 0)) for prompt in settings.prompts]
    fitting = [p for p, length in zip(settings.prompts, lengths, strict=True) if length <= settings.length // 2]
    if len(fitting) < MIN_PROMPTS:
        raise UsageError(
            f"{len(fitting)} of {len(lengths)} prompts fit into half of --length {settings.length} and "
            f"{MIN_PROMPTS} are needed: raise --length (the longest prompt has {max(lengths)} tokens)."
        )
    return fitting


def generate(model: Any, heads: Sequence[Sequence[int]], settings: DistillSettings) -> list[list[int]]:
    """Sampled continuations of prompts of different lengths, up to `length` tokens in all."""
    import torch

    longest = max(map(len, heads))
    padded = torch.tensor([[0] * (longest - len(h)) + list(h) for h in heads], device=model.device)
    mask = torch.tensor([[0] * (longest - len(h)) + [1] * len(h) for h in heads], device=model.device)
    with torch.inference_mode():
        made = model.generate(
            input_ids=padded,
            attention_mask=mask,
            do_sample=False,
            logits_processor=[_drawn(settings.temperature)],
            max_new_tokens=settings.length - longest,
            pad_token_id=0,
            use_cache=True,
        )
    ends = model.generation_config.eos_token_id
    return [_until_end(row[longest:].tolist(), set([ends] if isinstance(ends, int) else ends or [])) for row in made]


def _drawn(temperature: float) -> Any:
    """Sampling by one uniform number a row. torch.multinomial draws one for every token of the vocabulary, which was
    two thirds of the time that stories15M took to generate."""
    import torch
    from transformers import LogitsProcessor

    class Drawn(LogitsProcessor):  # type: ignore[misc]
        def __call__(self, _ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            cumulative = (scores.float() / temperature).softmax(-1).cumsum(-1)
            point = torch.rand(len(scores), 1, device=scores.device) * cumulative[:, -1:]
            tokens = torch.searchsorted(cumulative, point).clamp(max=scores.shape[-1] - 1)
            return torch.full_like(scores, -math.inf).scatter(1, tokens, 0.0)

    return Drawn()


def _until_end(tokens: list[int], ends: set[int]) -> list[int]:
    places = [place for place, token in enumerate(tokens) if token in ends]
    return tokens[: places[0] + 1] if places else tokens


def pad(texts: Sequence[Text]) -> dict[str, torch.Tensor]:
    """`input_ids`, `attention_mask` and `learn` (1 where the next token is part of an answer), all [texts, longest]."""
    import torch

    longest = max(len(text.tokens) for text in texts)
    ids = torch.zeros(len(texts), longest, dtype=torch.long)
    mask, learn = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, : len(text.tokens)] = torch.tensor(text.tokens)
        mask[row, : len(text.tokens)] = 1
        learn[row, max(text.prompt - 1, 0) : len(text.tokens) - 1] = 1
    return {"input_ids": ids, "attention_mask": mask, "learn": learn}
