"""Which experts should go? Losses of a small mixture of experts without some of them, by ranking.

python -m benchmarks.experts [--steps 600]

A Mixtral of 4 blocks with 8 experts each is trained on the built-in workloads' texts for some minutes, because no
mixture small enough for two cores is published; then `pw prune --experts` drops experts by each ranking, and the
loss on texts that it never saw says what that cost.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pennyweight import traces
from pennyweight.conform.tiny import tokenizer as tiny_tokenizer
from pennyweight.techniques import activations
from pennyweight.techniques.experts import Experts
from pennyweight.tokenizer import Tokenizer
from pennyweight.workload import texts

SHAPE = {
    "vocab_size": 480,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 512,
    "sliding_window": None,
    "output_router_logits": True,
    "router_aux_loss_coef": 0.001,
}
ROW, BATCH = 128, 16


def trained(place: Path, corpus: Sequence[str], steps: int) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("mixtral", **SHAPE)).float()
    tiny_tokenizer(place)
    words = Tokenizer(place)
    stream = torch.tensor([token for text in corpus for token in words.encode(text)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for step in range(steps):
        starts = torch.randint(0, len(stream) - ROW, (BATCH,)).tolist()
        rows = torch.stack([stream[start : start + ROW] for start in starts])
        loss = model(input_ids=rows, labels=rows).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step}: loss {float(loss.detach()):.3f}", flush=True)
    model.config.output_router_logits = False
    model.save_pretrained(place)


def loss(place: Path, corpus: tuple[str, ...]) -> float:
    return activations.loss(activations.load(place), activations.windows(place, corpus))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    arguments = parser.parse_args()
    found = sorted(texts(traces.load("chat").requests))
    tune, judge = tuple(found[1::8]), tuple(found[2::8])
    learn = tuple(text for n, text in enumerate(found) if n % 8 not in (1, 2))
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        trained(whole, learn, arguments.steps)
        print(json.dumps({"experts": 8, "loss": round(loss(whole, judge), 4)}), flush=True)
        for keep in (6, 4, 2):
            for ranking, seed in (("reap", 0), ("frequency", 0), ("random", 0), ("random", 1), ("random", 2)):
                target = Path(folder) / f"{keep}-{ranking}-{seed}"
                target.mkdir()
                Experts(keep, ranking, tune, seed).build(whole, target)
                row = {"experts": keep, "ranking": ranking, "seed": seed, "loss": round(loss(target, judge), 4)}
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
