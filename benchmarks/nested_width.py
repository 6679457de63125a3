"""A nested-width member: would the most active feed-forward neurons of a model, its own weights and nothing else, be a
small member of a mixture that pays?

    python -m benchmarks.nested_width [--model demo] [--keep 87.5 75 50] [--answers 60] [--tokens 48]

For each share of the neurons that is kept, ranked on the tuning half: how often the narrow model's first choice is the
whole one's along the whole one's greedy answers to the held-out half, how many answers are the same to the last token
(what a mixture may keep without a loss, if a rule saw it perfectly), and the share of the weights' bytes that a step of
the narrow model reads. A cascade pays only if more is kept than that share, a router (which sees no answer) if any is.
Weights that are trained to be nested (MatFormer, arXiv 2310.07707) are another matter: the whole model changes.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pennyweight import techniques
from pennyweight.inputs import open_model, read_workload
from pennyweight.techniques.dequantize import Dequantize
from pennyweight.techniques.width import SNAP, Width

CONTEXT, CALIBRATION = 512, 48


def say(**row: Any) -> None:
    print(json.dumps(row), flush=True)


def loaded(path: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval().requires_grad_(False)


@torch.no_grad()
def answers_of(model: Any, prompts: list[torch.Tensor], tokens: int) -> list[torch.Tensor]:
    return [model.generate(p[None], max_new_tokens=tokens, do_sample=False, pad_token_id=0)[0] for p in prompts]


@torch.no_grad()
def agreements(narrow: Any, prompt: torch.Tensor, answer: torch.Tensor) -> list[bool]:
    """Of each token of the whole model's answer: is it the narrow one's first choice, too?"""
    logits = narrow(answer[None, :-1]).logits[0, len(prompt) - 1 :]
    return (logits.argmax(-1) == answer[len(prompt) :]).tolist()  # type: ignore[no-any-return]


def read_bytes(model: Any) -> int:
    """Of a step: every weight once, a tied embedding as the head."""
    return sum(weight.numel() for weight in model.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--keep", type=float, nargs="+", default=[87.5, 75.0, 50.0])
    parser.add_argument("--answers", type=int, default=60)
    parser.add_argument("--tokens", type=int, default=48)
    given = parser.parse_args()
    opened = open_model(given.model)
    whole_model = techniques.apply(Dequantize(), opened) if opened.format == "gguf" else opened
    tokenizer: Any = AutoTokenizer.from_pretrained(whole_model.path)
    tuning, held_out = read_workload("chat").split(0)

    def text(request: Any) -> str:
        found: str = tokenizer.apply_chat_template(list(request.messages), add_generation_prompt=True, tokenize=False)
        return found

    whole = loaded(whole_model.path)
    asked = [text(request) for request in held_out.requests[: given.answers]]
    prompts = [torch.tensor(tokenizer(one, add_special_tokens=False)["input_ids"][-CONTEXT:]) for one in asked]
    answers = answers_of(whole, prompts, given.tokens)
    neurons, ranked_on = whole_model.config["intermediate_size"], tuple(map(text, tuning.requests[:CALIBRATION]))
    say(
        model=opened.name,
        answers=len(answers),
        tokens=sum(len(a) - len(p) for a, p in zip(answers, prompts, strict=True)),
    )
    for share in given.keep:
        kept = round(neurons * share / 100 / SNAP) * SNAP
        narrow = loaded(techniques.apply(Width(intermediate=kept, calibration=ranked_on), whole_model).path)
        rows = [agreements(narrow, prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
        places = [place for row in rows for place in row]
        say(
            neurons_kept=f"{kept} of {neurons}",
            first_choice_agrees=round(sum(places) / len(places), 3),
            whole_answers_agree=round(sum(map(all, rows)) / len(rows), 3),
            share_of_the_bytes=round(read_bytes(narrow) / read_bytes(whole), 3),
        )


if __name__ == "__main__":
    main()
