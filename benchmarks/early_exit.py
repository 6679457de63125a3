"""Self-speculation (LayerSkip, arXiv 2404.16710, the target frozen): would the first k blocks of a model, with a small
trained adapter before its own head, be a draft that pays?

    python -m benchmarks.early_exit [--model demo] [--blocks 6 10 15 20] [--answers 40]

For each k: an adapter is trained on the tuning half's texts to say what the whole model says; then, along the whole
model's own greedy answers to the held-out half, how often its first choice is the draft's, how many drafted tokens in a
row are, and what that would gain, from the measured seconds of k blocks with the head, of a step of the whole model and
of a step that verifies several tokens, for 1 and for 8 rows. The shared key-value store costs nothing here, so the gain
is an upper bound.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pennyweight.inputs import open_model, read_workload

TEXT_TOKENS, EPOCHS, BATCH, RATE = 16_000, 3, 512, 2e-3
ANSWER, CONTEXT = 64, 512
DRAFTS = (1, 2, 3, 4)


def say(**row: Any) -> None:
    print(json.dumps(row), flush=True)


class Adapter(torch.nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up = torch.nn.Linear(width, width // 2), torch.nn.Linear(width // 2, width)
        torch.nn.init.zeros_(self.up.weight)
        torch.nn.init.zeros_(self.up.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        changed: torch.Tensor = hidden + self.up(torch.nn.functional.silu(self.down(hidden)))
        return changed


@torch.no_grad()
def states_of(model: Any, tokens: torch.Tensor, blocks: Sequence[int]) -> dict[int, torch.Tensor]:
    """After each of these numbers of blocks, before the last norm: (tokens, width); -1: the whole model's logits."""
    kept: dict[int, torch.Tensor] = {}
    hooks = [
        model.model.layers[k - 1].register_forward_hook(
            lambda _, __, out, k=k: kept.__setitem__(k, (out[0] if isinstance(out, tuple) else out)[0])
        )
        for k in blocks
    ]
    kept[-1] = model(tokens[None]).logits[0]
    for hook in hooks:
        hook.remove()
    return kept


def trained(model: Any, states: torch.Tensor, wanted: torch.Tensor) -> Adapter:
    """`wanted` (tokens,) are the whole model's first choices."""
    adapter = Adapter(states.shape[1])
    optimiser = torch.optim.Adam(adapter.parameters(), lr=RATE)
    for _ in range(EPOCHS):
        for part in torch.randperm(len(states)).split(BATCH):
            logits = model.lm_head(model.model.norm(adapter(states[part])))
            loss = torch.nn.functional.cross_entropy(logits, wanted[part])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return adapter


def seconds(work: Callable[[], Any]) -> float:
    work()
    found = []
    for _ in range(7):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


@torch.no_grad()
def step_seconds(model: Any, rows: int, tokens: int, blocks: int | None) -> float:
    """Of a forward of `tokens` for each row, behind a text of 128, through the first `blocks`."""
    from transformers import DynamicCache

    layers = model.model.layers
    model.model.layers = layers[:blocks]
    try:
        ids = torch.randint(1000, (rows, 128))
        cache = DynamicCache()
        model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)

        def work() -> None:
            model(ids[:, :tokens], past_key_values=cache, use_cache=True)
            cache.crop(-tokens)

        return seconds(work)
    finally:
        model.model.layers = layers


def runs_of(agrees: Sequence[bool], drafts: int) -> float:
    """Tokens a cycle yields on average: accepted drafts and one of the model's own."""
    place, cycles = 0, 0
    while place < len(agrees):
        right = 0
        while right < drafts and place + right < len(agrees) and agrees[place + right]:
            right += 1
        place += right + 1
        cycles += 1
    return len(agrees) / max(1, cycles)


def agreements(model: Any, opened: Any, blocks: Sequence[int], answers: int) -> dict[int, list[bool]]:
    """For each number of blocks, of each token of the whole model's answers: is it the draft's first choice, too?"""
    tokenizer: Any = AutoTokenizer.from_pretrained(opened.path)
    halves = read_workload("chat").split(0)

    def prompt(request: Any) -> torch.Tensor:
        text = tokenizer.apply_chat_template(list(request.messages), add_generation_prompt=True, tokenize=False)
        return torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"][-CONTEXT:])

    def answered(request: Any) -> torch.Tensor:
        """The prompt with the whole model's greedy answer."""
        ids = prompt(request)
        made: torch.Tensor = model.generate(ids[None], max_new_tokens=ANSWER, do_sample=False, pad_token_id=0)[0]
        return made

    parts: dict[int, list[torch.Tensor]] = {}
    count = 0
    for request in halves[0].requests:
        for k, found in states_of(model, answered(request), blocks).items():
            parts.setdefault(k, []).append(found.argmax(-1) if k == -1 else found)
        count += len(parts[-1][-1])
        if count >= TEXT_TOKENS:
            break
    wanted = torch.cat(parts.pop(-1))
    say(model=opened.name, text_tokens=count)
    adapters = {k: trained(model, torch.cat(states), wanted) for k, states in parts.items()}
    agreeing: dict[int, list[bool]] = {k: [] for k in adapters}
    for request in halves[1].requests[:answers]:
        begun = len(prompt(request))
        seen = states_of(model, answered(request), blocks)
        for k, adapter in adapters.items():
            with torch.no_grad():
                choices = model.lm_head(model.model.norm(adapter(seen[k][begun - 1 : -1]))).argmax(-1)
            agreeing[k] += (choices == seen[-1][begun - 1 : -1].argmax(-1)).tolist()
    return agreeing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--blocks", type=int, nargs="+", default=[6, 10, 15, 20])
    parser.add_argument("--answers", type=int, default=40)
    parser.add_argument("--agreements", type=Path, help="file for what takes long; read where it exists")
    given = parser.parse_args()
    torch.manual_seed(0)
    opened = open_model(given.model)
    model: Any = AutoModelForCausalLM.from_pretrained(opened.path, dtype=torch.float32).eval().requires_grad_(False)
    if given.agreements is not None and given.agreements.exists():
        agreeing = {int(k): found for k, found in json.loads(given.agreements.read_text()).items()}
    else:
        agreeing = agreements(model, opened, given.blocks, given.answers)
        if given.agreements is not None:
            given.agreements.write_text(json.dumps(agreeing))
    for k, agrees in agreeing.items():
        say(blocks=k, acceptance=round(sum(agrees) / len(agrees), 3), tokens=len(agrees))
    for rows in (1, 8):
        whole = step_seconds(model, rows, 1, None)
        verify = {n: step_seconds(model, rows, n + 1, None) for n in DRAFTS}
        for k, agrees in agreeing.items():
            draft = step_seconds(model, rows, 1, k)
            gains = {n: round(runs_of(agrees, n) * whole / (n * draft + verify[n]), 3) for n in DRAFTS}
            say(
                rows=rows,
                blocks=k,
                acceptance=round(sum(agrees) / len(agrees), 3),
                tokens_a_cycle={n: round(runs_of(agrees, n), 2) for n in DRAFTS},
                draft_share_of_a_step=round(draft / whole, 2),
                verify_share={n: round(verify[n] / whole, 2) for n in DRAFTS},
                gain_at_best=gains,
            )


if __name__ == "__main__":
    main()
