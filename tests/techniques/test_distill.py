"""Distillation on a tiny model: it learns, resumes to the same result, and refuses what cannot work."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pennyweight import checkpoint, paths, techniques, traces
from pennyweight.errors import ModelError, UsageError
from pennyweight.model import Model
from pennyweight.techniques import continuations, training
from pennyweight.techniques.continuations import Text, pad, prompt_tokens, shared_tokens, translated
from pennyweight.techniques.depth import Depth
from pennyweight.techniques.distill import Distill
from pennyweight.techniques.sparsity import Sparsity
from pennyweight.techniques.vocabulary import Vocabulary
from pennyweight.weights import Weights
from pennyweight.workload import texts

TEXTS = tuple(texts(traces.load("chat").requests))
PROMPTS = tuple(text[:30] for text in TEXTS[:8])


@pytest.fixture(scope="module")
def teacher(tiny_checkpoint: Path) -> Model:
    return checkpoint.open_model(str(tiny_checkpoint))


def settings(teacher: Model, **more: Any) -> Distill:
    base = Distill(
        str(teacher.path), teacher.id, PROMPTS, continuations=2, length=48, steps=6, batch=4, learning_rate=2e-3
    )
    return replace(base, **more)


def run(technique: Distill, student: Model, tmp_path: Path) -> dict[str, Any]:
    """In this process; the result's tensors."""
    technique.result_kind(student)
    target = tmp_path / "made.partial"
    target.mkdir(parents=True)
    technique.build(student.path, target)
    weights = Weights(target)
    return {name: weights[name] for name in weights}


@pytest.fixture(scope="module")
def student(teacher: Model) -> Model:
    return techniques.apply(Depth(1, "random"), teacher)


@pytest.mark.slow
def test_the_student_comes_nearer_to_the_teacher(teacher: Model, student: Model, tmp_path: Path) -> None:
    import json

    run(settings(teacher, steps=60), student, tmp_path)
    losses = [loss for _, loss in json.loads((tmp_path / "made.partial" / "losses.json").read_text())]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert not (tmp_path / "made.work").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        {"divergence": "forward:0.5,reverse:0.5"},
        {"divergence": "jensen-shannon"},
        {"on_policy": 0.5},
        {"hidden": 1.0},
        {"round_to": "Q4_0"},
        {"round_to": "W4A16"},
        {"mixed_precision": True},
        {"accumulate": 2},
        {"gradient_checkpointing": True},
    ],
    ids=str,
)
def test_every_setting_trains(more: dict[str, Any], teacher: Model, student: Model, tmp_path: Path) -> None:
    import torch

    made = run(settings(teacher, steps=2, **more), student, tmp_path)
    before = Weights(student.path)
    assert set(made) == set(before)
    assert any(not torch.equal(made[name], before[name]) for name in made)
    assert all(torch.isfinite(tensor).all() for tensor in made.values())


@pytest.mark.slow
def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    import torch

    torch.manual_seed(0)
    likely = torch.tensor([0.5, 0.3, 0.15, 0.05, 0.0])
    scores = (2 * likely.log()).expand(20_000, 5)  # at temperature 2
    drawn = continuations._drawn(2.0)(torch.zeros(20_000, 1), scores)
    assert torch.equal(drawn.isfinite().sum(-1), torch.ones(20_000))
    shares = drawn.isfinite().float().mean(0)
    assert torch.allclose(shares, likely, atol=0.015)
    assert shares[4] == 0


@pytest.mark.slow
def test_accumulated_batches_share_one_step(teacher: Model, student: Model, tmp_path: Path) -> None:
    """Two batches of two are, but for texts of unequal length, one of four: the first loss is alike, not twice."""
    import json

    found = []
    for batch, accumulate in ((4, 1), (2, 2)):
        place = tmp_path / f"{batch}x{accumulate}"
        run(settings(teacher, steps=1, batch=batch, accumulate=accumulate), student, place)
        found.append(json.loads((place / "made.partial" / "losses.json").read_text())[0][1])
    assert found[1] == pytest.approx(found[0], rel=0.25)


@pytest.mark.slow
@pytest.mark.parametrize("on_policy", [0.0, 0.5])
def test_a_run_that_is_cut_resumes_to_the_same_result(
    on_policy: float, teacher: Model, student: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    technique = settings(teacher, steps=8, on_policy=on_policy)
    whole = run(technique, student, tmp_path / "whole")
    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
    seen = []

    def cut(done: int, _total: int, note: str = "") -> None:
        seen.append(done)
        if "loss" in note and done == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "progress", cut)
        run(technique, student, tmp_path / "cut")
    (tmp_path / "cut" / "made.partial").rmdir()
    monkeypatch.setattr(training, "progress", lambda done, *_: seen.append(done))
    seen.clear()
    resumed = run(technique, student, tmp_path / "cut")
    assert seen[0] > 1, "it began anew"
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name


@pytest.mark.slow
def test_a_state_cut_while_it_was_written_is_not_used(tmp_path: Path) -> None:
    states = tmp_path / training.CHECKPOINTS
    for step in (2, 4, 10):
        (states / f"checkpoint-{step}").mkdir(parents=True)
        for name in training.STATE_FILES:
            (states / f"checkpoint-{step}" / name).write_text("x")
    (states / "checkpoint-10" / "trainer_state.json").unlink()
    assert training.last_state(tmp_path) == str(states / "checkpoint-4")
    assert not (states / "checkpoint-10").exists()


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_and_names_the_step(
    teacher: Model, student: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(training, "head_divergence", lambda *_, **__: torch.tensor(math.nan, requires_grad=True))
    with pytest.raises(ModelError, match="step 1"):
        run(settings(teacher), student, tmp_path)
    assert (tmp_path / "made.work").exists()


@pytest.mark.slow
def test_training_fills_zeros(teacher: Model, tmp_path: Path) -> None:
    """Why `search/compatibility.py` refuses sparsity with distillation."""
    sparse = techniques.apply(Sparsity("50%", "magnitude"), teacher)
    name = "model.layers.0.mlp.up_proj.weight"
    assert float((Weights(sparse.path)[name] == 0).float().mean()) == 0.5
    made = run(settings(teacher, steps=2), sparse, tmp_path)
    assert float((made[name] == 0).float().mean()) < 0.05


@pytest.mark.slow
def test_a_trimmed_student_learns_from_the_whole_teacher(teacher: Model, student: Model, tmp_path: Path) -> None:
    trimmed = techniques.apply(Vocabulary(448, TEXTS[:6] * 8), student)
    ids = shared_tokens(trimmed.path, teacher.path)
    assert ids is not None and len(ids) == 448
    assert all(own <= other for own, other in ids)
    made = run(settings(teacher, steps=2), trimmed, tmp_path)
    assert made["model.embed_tokens.weight"].shape[0] == 448


def test_a_stranger_is_no_teacher(teacher: Model, tmp_path: Path) -> None:
    import json
    import shutil

    other = tmp_path / "other"
    shutil.copytree(teacher.path, other)
    value = json.loads((other / "tokenizer.json").read_text())
    value["model"]["vocab"] = {
        f"§{piece}" if number > 300 else piece: number for piece, number in value["model"]["vocab"].items()
    }
    value["model"]["merges"] = []
    (other / "tokenizer.json").write_text(json.dumps(value))
    with pytest.raises(ModelError, match="do not match"):
        shared_tokens(teacher.path, other)


def test_text_with_lost_tokens_is_cut_anew(teacher: Model) -> None:
    import tokenizers

    backend = tokenizers.Tokenizer.from_file(str(teacher.path / "tokenizer.json"))
    answer = backend.encode("hello world").ids
    own = {token: token + 1000 for token in range(50)}
    made = translated([1, 2], answer, own, backend, backend)
    assert made.tokens[:2] == (1001, 1002) and list(made.tokens[2:]) == answer and made.prompt == 2


def test_padding_marks_where_to_learn() -> None:
    made = pad([Text(2, (5, 6, 7)), Text(0, (8, 9))])
    assert made["input_ids"].tolist() == [[5, 6, 7], [8, 9, 0]]
    assert made["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert made["learn"].tolist() == [[0, 1, 0], [1, 0, 0]]


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"steps": 0}, "steps"),
        ({"temperature": 0.0}, "temperature"),
        ({"learning_rate": -1.0}, "learning-rate"),
        ({"on_policy": 2.0}, "on-policy"),
        ({"round_to": "Q3"}, "round-to"),
        ({"divergence": "odd"}, "divergence"),
    ],
)
def test_bad_settings_are_refused(more: dict[str, Any], word: str, teacher: Model) -> None:
    with pytest.raises(UsageError, match=word):
        settings(teacher, **more)


def test_prompts_too_long_to_be_answered_are_refused(teacher: Model) -> None:
    with pytest.raises(UsageError, match="raise --length"):
        settings(teacher, prompts=TEXTS[:9], length=8).result_kind(teacher)


def test_special_tokens_stand_before_a_prompt_once(teacher: Model) -> None:
    import tokenizers
    from tokenizers.processors import TemplateProcessing

    backend = tokenizers.Tokenizer.from_file(str(teacher.path / "tokenizer.json"))
    plain = backend.encode("hello").ids
    backend.post_processor = TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])
    assert prompt_tokens(backend, "hello", 0) == [0, *plain]
    assert prompt_tokens(backend, "<|endoftext|>hello", 0) == [0, *plain]
    assert prompt_tokens(backend, "", 7) == [0]


@pytest.mark.slow
def test_heads_of_unequal_length_are_compared_where_both_have_rows(teacher: Model, tmp_path: Path) -> None:
    """Qwen's sizes share a tokenizer and pad the embedding differently."""
    import torch

    from pennyweight.weights import rewrite

    config = Model.config_of(teacher.path)

    def longer(name: str, tensor: Any) -> list[tuple[str, Any]]:
        rows = torch.zeros(64, tensor.shape[1]) if "embed_tokens" in name else tensor[:0]
        return [(name, torch.cat([tensor, rows]))]

    padded = tmp_path / "padded"
    padded.mkdir()
    rewrite(teacher.path, padded, {**config, "vocab_size": config["vocab_size"] + 64}, longer)
    student = checkpoint.open_model(str(padded))
    assert len(shared_tokens(student.path, teacher.path) or ()) == config["vocab_size"]
    made = run(settings(teacher, steps=1), student, tmp_path)
    assert made["model.embed_tokens.weight"].shape[0] == config["vocab_size"] + 64


def test_too_few_prompts_are_refused(teacher: Model) -> None:
    with pytest.raises(UsageError, match="too few"):
        settings(teacher, prompts=("a",)).result_kind(teacher)


@pytest.mark.slow
def test_a_killed_command_goes_on_when_it_is_given_again(teacher: Model, tmp_path: Path) -> None:
    """The whole path, in processes of its own, killed without warning."""
    spec = tmp_path / "student"
    spec.symlink_to(teacher.path)
    command = [
        sys.executable,
        "-m",
        "pennyweight",
        "distill",
        str(spec),
        "--teacher",
        str(teacher.path),
        "--steps",
        "4",
        "--batch",
        "2",
        "--length",
        "240",
        "--continuations",
        "1",
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ.copy(), start_new_session=True)
    models = paths.cache_directory() / "models"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list(models.glob("continuations/*.jsonl")):
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ.copy(), check=False)
    assert done.returncode == 0, done.stderr
    assert not list(models.glob("*.work"))
