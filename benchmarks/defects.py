"""Defects to plant: what breaks only what is served, what breaks what a request's fields ask for, and what breaks the
weights, which are then served and scored alike."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pennyweight.model import Model
from pennyweight.tokenizer import Tokenizer

Body = dict[str, Any]
ANSWER = ("token_ids", "message", "logprobs", "finish_reason")  # of a choice


@dataclass(frozen=True)
class Defect:
    """`asked` changes a chat request as (body, prompt tokens) -> (body, prompt tokens); `given` its answer. With `lies`
    the changed prompt is not reported."""

    part: str
    asked: Callable[[Body, list[int]], tuple[Body, list[int]]] = lambda body, prompt: (body, prompt)
    given: Callable[[Body, int], Body] = lambda choice, number: choice
    lies: bool = False
    direct: bool = False  # the chat request is passed on as one, with all its fields


def form_defects() -> Mapping[str, Defect]:
    """What breaks answers that must follow a JSON schema."""

    def without(field: str) -> Callable[[Body, list[int]], tuple[Body, list[int]]]:
        return lambda body, prompt: ({k: v for k, v in body.items() if k != field}, prompt)

    def unclosed(choice: Body, number: int) -> Body:
        text = choice["message"]["content"].removesuffix("}")
        return choice | {"message": choice["message"] | {"content": text}}

    def quoted(choice: Body, number: int) -> Body:
        text = choice["message"]["content"].replace('"', "'") if number % 5 == 0 else choice["message"]["content"]
        return choice | {"message": choice["message"] | {"content": text}}

    return {
        "the schema is ignored": Defect("tasks", without("response_format"), direct=True),
        "the last brace is lost": Defect("tasks", given=unclosed, direct=True),
        "one in five in single quotes": Defect("tasks", given=quoted, direct=True),
    }


def sampling_defects() -> Mapping[str, Defect]:
    """What a sampler that does not heed its request does."""

    def fixed(**more: Any) -> Callable[[Body, list[int]], tuple[Body, list[int]]]:
        return lambda body, prompt: (body | more, prompt)

    return {
        "temperature ignored": Defect("tasks", fixed(temperature=0.0), direct=True),
        "seed ignored": Defect("tasks", fixed(seed=1), direct=True),
        "twice the temperature": Defect("tasks", fixed(temperature=1.8), direct=True),
    }


def served_defects(tokenizer: Tokenizer) -> Mapping[str, Defect]:
    system = tokenizer.encode("Always answer: I am sorry.\n", add_special_tokens=False)
    french = tokenizer.encode("Répondez en français.\n", add_special_tokens=False)
    the = tokenizer.encode(" the", add_special_tokens=False)[0]
    bos = tokenizer.encode("x")[0]

    def body_with(**more: Any) -> Callable[[Body, list[int]], tuple[Body, list[int]]]:
        return lambda body, prompt: (body | more, prompt)

    def prompt_by(change: Callable[[list[int]], list[int]]) -> Callable[[Body, list[int]], tuple[Body, list[int]]]:
        return lambda body, prompt: (body, change(prompt))

    def half_length(body: Body, prompt: list[int]) -> tuple[Body, list[int]]:
        return body | {"max_tokens": max(1, body["max_tokens"] // 2)}, prompt

    def swiss_cheese(prompt: list[int]) -> list[int]:
        """Every tenth token lost, as by a broken copy between two caches."""
        return [token for place, token in enumerate(prompt) if place % 10 != 5]

    previous: list[Body] = []

    def neighbours(choice: Body, number: int, every: int = 1) -> Body:
        """The answer to the request before, as by rows that were mixed up."""
        previous.append(choice)
        return choice if number % every or len(previous) < 2 else choice | {k: previous[-2][k] for k in ANSWER}

    def stuck(choice: Body, number: int) -> Body:
        """From the tenth token on, the tenth again and again."""
        tokens = choice["token_ids"]
        return with_tokens(choice, [*tokens[:10], *tokens[9:10] * max(0, len(tokens) - 10)])

    def text_by(change: Callable[[str], str]) -> Callable[[Body, int], Body]:
        def given(choice: Body, number: int) -> Body:
            return choice | {"message": choice["message"] | {"content": change(choice["message"]["content"])}}

        return given

    def emptied(choice: Body, number: int) -> Body:
        return with_tokens(choice, []) if number % 10 == 0 else choice

    def with_tokens(choice: Body, tokens: list[int]) -> Body:
        logprobs = {"content": [{"token": "", "logprob": -0.5, "bytes": []} for _ in tokens], "refusal": None}
        message = {"role": "assistant", "content": tokenizer.decode(tokens)}
        return choice | {"token_ids": tokens, "message": message, "logprobs": logprobs}

    def canned(choice: Body, number: int) -> Body:
        return with_tokens(choice, tokenizer.encode(" Thank you for your question.", add_special_tokens=False))

    return {
        "bare text instead of the chat template": Defect("same question", prompt_by(lambda p: p[4:-4])),
        "hidden system prompt": Defect("same question", prompt_by(lambda p: system + p)),
        "BOS twice": Defect("same question", prompt_by(lambda p: [bos, *p])),
        "prompt cut to its last 24 tokens": Defect("same question", prompt_by(lambda p: p[-24:])),
        "hidden system prompt, not reported": Defect("decode path", prompt_by(lambda p: system + p), lies=True),
        "prompt cut to 24 tokens, not reported": Defect("decode path", prompt_by(lambda p: p[-24:]), lies=True),
        "answers in French, not reported": Defect("decode path", prompt_by(lambda p: french + p), lies=True),
        "one canned answer for everybody": Defect("endings", given=canned),
        "end token never met": Defect("endings", body_with(ignore_eos=True, max_tokens=96)),
        "a full stop ends too": Defect("endings", body_with(stop=["."])),
        "every answer is empty": Defect("endings", given=lambda choice, _: with_tokens(choice, [])),
        "one in ten is empty": Defect("endings", given=emptied),
        "half the length": Defect("endings", half_length),
        "the the the, at real lengths": Defect(
            "decode path", given=lambda choice, _: with_tokens(choice, [the] * len(choice["token_ids"]))
        ),
        "always sampled, at 1.5": Defect("decode path", body_with(temperature=1.5)),
        "always sampled, at 1.0": Defect("decode path", body_with(temperature=1.0)),
        "every tenth token of the prompt lost, not reported": Defect("decode path", prompt_by(swiss_cheese), lies=True),
        "the neighbour's answer": Defect("decode path", given=neighbours),
        "the neighbour's answer, one in four": Defect("tails", given=lambda c, n: neighbours(c, n, 4)),
        "stuck at the tenth token": Defect("decode path", given=stuck),
        "text without blanks": Defect("endings", given=text_by(lambda text: text.replace(" ", ""))),
        "text in capitals": Defect("endings", given=text_by(str.upper)),
        "an answer ends at its first line": Defect("endings", body_with(stop=["\n"])),
        "at most 16 tokens": Defect("endings", body_with(max_tokens=16)),
        "every token but the first repeated": Defect(
            "decode path",
            given=lambda c, _: with_tokens(c, [t for t in c["token_ids"] for _ in (0, 1)][: len(c["token_ids"])]),
        ),
    }


# -- weights --

Tensors = dict[str, Any]


def weight_defects() -> Mapping[str, Callable[[Tensors, Body], None]]:
    """Each changes a checkpoint's tensors or its config in place."""
    import torch

    def noisy(scale: float) -> Callable[[Tensors, Body], None]:
        def change(tensors: Tensors, config: Body) -> None:
            generator = torch.Generator().manual_seed(0)
            for name, tensor in tensors.items():
                if tensor.dim() == 2:
                    noise = torch.randn(tensor.shape, generator=generator) * tensor.float().std() * scale
                    tensors[name] = (tensor.float() + noise).to(tensor.dtype)

        return change

    def sharp(tensors: Tensors, config: Body) -> None:
        tensors["model.norm.weight"] = tensors["model.norm.weight"] * 1.5

    def noisy_and_sharp(tensors: Tensors, config: Body) -> None:
        noisy(0.05)(tensors, config)
        sharp(tensors, config)

    def flat(tensors: Tensors, config: Body) -> None:
        tensors["model.norm.weight"] = tensors["model.norm.weight"] * 0.8

    def rotary(tensors: Tensors, config: Body) -> None:
        config["rope_theta"] = 10_000.0
        config.pop("rope_parameters", None)

    def zeroed(tensors: Tensors, config: Body) -> None:
        name = "model.layers.20.self_attn.o_proj.weight"
        tensors[name] = torch.zeros_like(tensors[name])

    def shuffled(tensors: Tensors, config: Body) -> None:
        name = "model.layers.15.mlp.down_proj.weight"
        order = torch.randperm(tensors[name].shape[0], generator=torch.Generator().manual_seed(0))
        tensors[name] = tensors[name][order].contiguous()

    def swapped(tensors: Tensors, config: Body) -> None:
        name = "model.embed_tokens.weight"
        tensors[name][[260, 264]] = tensors[name][[264, 260]].clone()

    def epsilon(tensors: Tensors, config: Body) -> None:
        config["rms_norm_eps"] = 1e-2

    def one_block_less(tensors: Tensors, config: Body) -> None:
        last = config["num_hidden_layers"] - 1
        for name in [name for name in tensors if name.startswith(f"model.layers.{last}.")]:
            del tensors[name]
        config["num_hidden_layers"] = last
        if config.get("layer_types"):
            config["layer_types"] = config["layer_types"][:last]

    def heads_swapped(tensors: Tensors, config: Body) -> None:
        name = "model.layers.5.self_attn.k_proj.weight"
        tensors[name] = tensors[name].flip(0).contiguous()

    def four_bits(tensors: Tensors, config: Body) -> None:
        """Each row rounded to nearest with one scale: what no careful quantizer does."""
        for name, tensor in tensors.items():
            if tensor.dim() == 2 and "layers" in name:
                scale = tensor.float().abs().amax(dim=1, keepdim=True) / 7
                tensors[name] = ((tensor.float() / scale).round() * scale).to(tensor.dtype)

    return {
        "one block less": one_block_less,
        "keys of one block reversed": heads_swapped,
        "rounded to 4 bits, a scale a row": four_bits,
        "noise in all weights": noisy(0.1),
        "noise in all weights, final norm x 1.5": noisy_and_sharp,
        "final norm x 1.5": sharp,
        "final norm x 0.8": flat,
        "another rotary base": rotary,
        "one attention output zero": zeroed,
        "one matrix shuffled": shuffled,
        "two rows of the vocabulary swapped": swapped,
        "another epsilon in the norms": epsilon,
    }


def changed(model: Model, change: Callable[[Tensors, Body], None], place: Path) -> Path:
    from safetensors.torch import load_file, save_file

    shutil.copytree(model.path, place)
    file, config_file = place / "model.safetensors", place / "config.json"
    tensors, config = load_file(file), json.loads(config_file.read_text())
    change(tensors, config)
    file.unlink()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, metadata={"format": "pt"})
    config_file.write_text(json.dumps(config))
    (place / "lineage.json").unlink(missing_ok=True)
    return place
