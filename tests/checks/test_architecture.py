"""A checkpoint is what its config says, or it is refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pennyweight import inputs
from pennyweight.checks import architecture
from pennyweight.checks.architecture import check_architecture, wrapper_of
from pennyweight.checks.stock import report
from pennyweight.errors import ModelError

Tensors = dict[str, torch.Tensor]
DOWN = "model.layers.1.mlp.down_proj.weight"
HEAD = "lm_head.weight"


@pytest.fixture
def model(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask transformers in this process, which has it loaded already."""
    monkeypatch.setattr(architecture, "_ask", report)


def change(model: Path, tensors: Callable[[Tensors], Tensors] = lambda t: t, **config: Any) -> Path:
    file, settings = model / "model.safetensors", model / "config.json"
    kept = {name: tensor.clone() for name, tensor in tensors(load_file(file)).items()}
    save_file(kept, file, metadata={"format": "pt"})
    settings.write_text(json.dumps(json.loads(settings.read_text()) | config))
    return model


def biased(tensors: Tensors) -> Tensors:
    return tensors | {"model.layers.0.self_attn.q_proj.bias": torch.ones(64)}


FAULTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a tensor is missing": (lambda m: change(m, lambda t: {k: v for k, v in t.items() if k != DOWN}), DOWN),
    "a tensor is cut": (lambda m: change(m, lambda t: t | {DOWN: t[DOWN][:-1]}), DOWN),
    "untied without a head": (lambda m: change(m, tie_word_embeddings=False), HEAD),
    "tied with another head": (lambda m: change(m, lambda t: t | {HEAD: torch.ones(512, 64)}), "tie_word_embeddings"),
    "biases that nobody adds": (lambda m: change(m, biased), "q_proj.bias"),
    "biases that are not there": (lambda m: change(m, attention_bias=True), "bias"),
    "more layers than there are": (lambda m: change(m, num_hidden_layers=3), "model.layers.2"),
    "fewer layers than there are": (lambda m: change(m, num_hidden_layers=1), "model.layers.1"),
    "an architecture that nobody knows": (lambda m: change(m, model_type="strange"), "strange"),
    "heads that do not divide": (lambda m: change(m, num_key_value_heads=3), "k_proj"),
}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("fault", FAULTS)
def test_what_would_be_filled_in_or_left_out_is_refused_by_name(fault: str, model: Path) -> None:
    plant, named = FAULTS[fault]
    with pytest.raises(ModelError, match=named) as refused:
        check_architecture(plant(model))
    assert "\n" not in str(refused.value)


@pytest.mark.usefixtures("here")
def test_a_token_beyond_the_embedding_is_refused(model: Path) -> None:
    file = model / "tokenizer.json"
    value = json.loads(file.read_text())
    value["added_tokens"].append({**value["added_tokens"][0], "id": 512, "content": "<extra>"})
    file.write_text(json.dumps(value))
    with pytest.raises(ModelError, match="512"):
        check_architecture(model)


@pytest.mark.usefixtures("here")
def test_a_tokenizer_for_a_much_smaller_vocabulary_is_refused(model: Path) -> None:
    """That of another model, whose ids mean other words here."""
    tensors = load_file(model / "model.safetensors")
    rows = tensors["model.embed_tokens.weight"].repeat(4, 1).contiguous()
    heads = {name: rows.clone() for name in tensors if name in ("model.embed_tokens.weight", "lm_head.weight")}
    save_file({**tensors, **heads}, model / "model.safetensors")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "vocab_size": len(rows)}))
    with pytest.raises(ModelError, match=r"names \d+ tokens of the embedding's"):
        check_architecture(model)


@pytest.mark.usefixtures("here")
def test_a_whole_checkpoint_passes_and_is_asked_about_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(model, lambda t: t | {HEAD: t["model.embed_tokens.weight"]})  # a head that is the embedding says nothing new
    check_architecture(model)
    monkeypatch.setattr(architecture, "_ask", lambda directory: pytest.fail("asked again"))
    check_architecture(model)


def test_transformers_is_asked_in_a_process_of_its_own(model: Path) -> None:
    check_architecture(model)
    with pytest.raises(ModelError, match=DOWN):
        check_architecture(change(model, lambda t: {k: v for k, v in t.items() if k != DOWN}))


@pytest.mark.parametrize(
    ("names", "prefix"),
    [
        (["_orig_mod.a", "_orig_mod.b"], "_orig_mod."),
        (["base_model.model._orig_mod.a"], "base_model.model._orig_mod."),
        (["_orig_mod.a", "b"], ""),
        (["model.a"], ""),
        ([], ""),
    ],
)
def test_wrappers_are_known_by_all_names_having_them(names: list[str], prefix: str) -> None:
    assert wrapper_of(names) == prefix


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("prefix", ["_orig_mod.", "base_model.model."])
def test_a_wrapped_checkpoint_is_mended_and_its_lineage_says_so(prefix: str, model: Path) -> None:
    before = load_file(model / "model.safetensors")
    change(model, lambda t: {prefix + name: tensor for name, tensor in t.items()})
    opened = inputs.open_model(str(model))
    assert [step.technique for step in opened.lineage.steps] == ["unwrap"]
    after = load_file(opened.path / "model.safetensors")
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


def test_an_adapter_alone_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "owner/base"}')
    with pytest.raises(ModelError, match="owner/base, with --adapter"):
        inputs.open_model(str(tmp_path))


def test_code_that_lies_in_a_checkpoint_is_not_run(model: Path) -> None:
    change(model, model_type="own", auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"})
    (model / "own.py").write_text(f"import pathlib; pathlib.Path({str(model / 'ran')!r}).touch()")
    with pytest.raises(ModelError, match="custom code"):
        check_architecture(model)
    assert not (model / "ran").exists()
