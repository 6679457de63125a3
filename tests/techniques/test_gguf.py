"""A GGUF file as MODEL is the model that it was made from, or it is refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from pennyweight import checkpoint
from pennyweight.checks.gguf_file import read_gguf_header
from pennyweight.errors import ModelError
from pennyweight.techniques.dequantize import Dequantize
from pennyweight.techniques.gguf_config import LLAMA3, llama3_factors
from pennyweight.techniques.gguf_copy import copy_metadata, finish
from pennyweight.techniques.gguf_tokenizer import merges_of, sentencepiece
from pennyweight.techniques.quantize import Quantize, convert_to_gguf
from tests.families import llama2


def change_config(directory: Path, **values: Any) -> Path:
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    return directory


def there_and_back(model: Path, tmp_path: Path) -> Path:
    """To F16 GGUF and back into a directory."""
    file, target = tmp_path / "model.gguf", tmp_path / "back"
    convert_to_gguf(model, file, "MOSTLY_F16")
    target.mkdir()
    Dequantize().build(file, target)
    return target


def logits(directory: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    ids = torch.randint(3, 500, (1, 120), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found: torch.Tensor = model(ids).logits
    return found


def biased(directory: Path) -> Path:
    change_config(directory, attention_bias=True)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    model.save_pretrained(directory)
    return directory


LLAMA3_ROPE = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, **LLAMA3}
KINDS: dict[str, Callable[[Path], Path]] = {
    "plain": lambda d: d,
    "llama3 rope": lambda d: change_config(d, rope_parameters=LLAMA3_ROPE),
    "linear rope": lambda d: change_config(
        d, rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
    ),
    "yarn": lambda d: change_config(
        d,
        rope_parameters={
            "rope_type": "yarn",
            "factor": 4.0,
            "rope_theta": 10000.0,
            "original_max_position_embeddings": 64,
        },
    ),
    "attention biases": biased,
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_back_is_the_same_model(kind: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    model = KINDS[kind](Path(shutil.copytree(tiny_checkpoint, tmp_path / "model")))
    before, after = logits(model), logits(there_and_back(model, tmp_path))
    lost = (before - after).abs().mean() / before.std()
    assert lost < 0.05  # weights in 16 bits
    if kind != "plain":
        assert (before - logits(tiny_checkpoint)).abs().mean() / before.std() > 2 * lost  # it would have shown


def test_every_token_that_ends_an_answer_is_kept(tiny_checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    convert_to_gguf(tiny_checkpoint, file, "MOSTLY_F16")
    with_more = rewritten(file, tmp_path / "more.gguf", more={"tokenizer.ggml.eot_token_id": 7})
    target = tmp_path / "back"
    target.mkdir()
    Dequantize().build(with_more, target)
    assert json.loads((target / "generation_config.json").read_text())["eos_token_id"] == [2, 7]


def rewritten(
    file: Path, target: Path, *, without: str = "", only: range | None = None, more: dict[str, int] | None = None
) -> Path:
    """The same file with more integers, or without some of its tensors."""
    reader = gguf.GGUFReader(file)
    writer = gguf.GGUFWriter(target, "llama")
    copy_metadata(reader, writer, without=tuple(more or ()))
    for name, value in (more or {}).items():
        writer.add_uint32(name, value)
    for number, tensor in enumerate(reader.tensors):
        if tensor.name != without and (only is None or number in only):
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    finish(writer)
    return target


@pytest.fixture(scope="module")
def whole(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file: Path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    convert_to_gguf(tiny_checkpoint, file, "MOSTLY_F16")
    return file


def in_parts(whole: Path, directory: Path) -> list[Path]:
    count = len(read_gguf_header(whole).tensors)
    split = {"split.count": 2, "split.tensors.count": count}
    ranges = (range(count // 2), range(count // 2, count))
    return [
        rewritten(whole, directory / f"model-0000{n + 1}-of-00002.gguf", only=part, more=split | {"split.no": n})
        for n, part in enumerate(ranges)
    ]


def test_a_file_in_parts_is_read_whole(whole: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    first, second = in_parts(whole, tmp_path)
    target = tmp_path / "back"
    target.mkdir()
    opened = checkpoint.open_model(str(second))
    assert opened.path == first and set(opened.lineage.source_files) == {first.name, second.name}
    Dequantize().build(opened.path, target)
    assert load_file(target / "model.safetensors").keys() == load_file(tiny_checkpoint / "model.safetensors").keys()


def test_a_part_that_is_missing_is_named(whole: Path, tmp_path: Path) -> None:
    first, second = in_parts(whole, tmp_path)
    second.unlink()
    with pytest.raises(ModelError, match=second.name):
        checkpoint.open_model(str(first))


def test_a_tensor_that_is_missing_is_named(whole: Path, tmp_path: Path) -> None:
    file = rewritten(whole, tmp_path / "less.gguf", without="blk.1.ffn_down.weight")
    target = tmp_path / "back"
    target.mkdir()
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.down_proj"):
        Dequantize().build(file, target)


def test_a_weight_that_16_bit_floats_cannot_hold_is_named(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))
    tensors = load_file(model / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][3, 4] = 1e5
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"up_proj.*1e\+05"):
        Quantize("F16").build(model, tmp_path)


@pytest.mark.parametrize(("place", "value", "says"), [(4, 4, "version 4"), (4, 1, "version 1")])
def test_versions_that_are_not_known_are_named(place: int, value: int, says: str, whole: Path, tmp_path: Path) -> None:
    data = bytearray(whole.read_bytes())
    data[place : place + 4] = value.to_bytes(4, "little")
    (tmp_path / "x.gguf").write_bytes(data)
    with pytest.raises(ModelError, match=says):
        checkpoint.open_model(str(tmp_path / "x.gguf"))


def test_a_vocabulary_alone_is_no_model(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="vocabulary"):
        checkpoint.open_model(str(rewritten(whole, tmp_path / "words.gguf", only=range(0))))


def test_an_unknown_type_of_tensor_is_named(whole: Path, tmp_path: Path) -> None:
    data = bytearray(whole.read_bytes())
    name = b"blk.0.attn_q.weight"
    place = data.index(len(name).to_bytes(8, "little") + name) + 8 + len(name) + 4 + 2 * 8
    data[place : place + 4] = (999).to_bytes(4, "little")
    (tmp_path / "x.gguf").write_bytes(data)
    with pytest.raises(ModelError, match="999"):
        checkpoint.open_model(str(tmp_path / "x.gguf"))


def test_llama3_factors_are_those_of_transformers() -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    plain = {"hidden_size": 64, "num_attention_heads": 1}
    config = LlamaConfig(**plain, rope_parameters={**LLAMA3_ROPE, "rope_theta": 500000.0})
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    usual = [500000.0 ** (-2 * place / 64) for place in range(32)]
    wanted = [a / b for a, b in zip(usual, scaled.tolist(), strict=True)]
    assert llama3_factors(500000.0, 32, LLAMA3_ROPE) == pytest.approx(wanted, rel=1e-4)


class Field:
    def __init__(self, value: Any) -> None:
        self.value = value

    def contents(self) -> Any:
        return self.value


def test_sentencepiece_files_cut_texts_as_their_tokenizer_json_does() -> None:
    theirs, _ = llama2()
    model = json.loads(theirs.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].__getitem__)
    rank: dict[str, int] = {}
    for number, pair in enumerate(model["merges"]):
        rank.setdefault("".join(pair), number)
    values = {
        "model": "llama",
        "tokens": pieces,
        "token_type": [
            2 if p == "<unk>" else 3 if p in ("<s>", "</s>") else 6 if p.startswith("<0x") else 1 for p in pieces
        ],
        "scores": [-float(rank.get(piece, 10**6)) for piece in pieces],
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    reader = type("Reader", (), {"fields": {f"tokenizer.ggml.{name}": Field(value) for name, value in values.items()}})
    ours, names = sentencepiece(reader)
    assert names == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    for text in ("", " x", "  two  blanks", "a\n\n b   c", "üé🙂 <s> hi</s>", "tell me about the old man  and the sea"):
        assert ours.encode(text).ids == theirs.encode(text).ids
        assert ours.decode(ours.encode(text).ids) == theirs.decode(theirs.encode(text).ids)


def test_a_vocabulary_without_scores_is_refused() -> None:
    with pytest.raises(ModelError, match="same score"):
        merges_of(["a", "b", "ab", "ba"], [1] * 4, [-1000.0] * 4)


def test_pieces_merge_by_their_scores() -> None:
    made = merges_of(["a", "b", "ab", "aba", "ba"], [1] * 5, [0.0, 0.0, -2.0, -3.0, -1.0])
    assert made == [("b", "a"), ("a", "b"), ("a", "ba"), ("ab", "a")]
