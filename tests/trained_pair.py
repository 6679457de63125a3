"""Two tiny models that were trained, and work on which one is sometimes enough: both know the colours of fruits, the
large one alone their sizes. Most of the large one's layers add nothing, so that it is much slower and still trained
within seconds. With them a whole choice between models runs on two cores within minutes."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

COLOURS = {"apple": "red", "banana": "yellow", "plum": "blue", "lime": "green", "pear": "green", "cherry": "red"}
SIZES = {"apple": "mid", "banana": "long", "plum": "small", "lime": "small", "pear": "mid", "cherry": "tiny"}
TASKS = {"Name the colour of the fruit.": COLOURS, "Name the size of the fruit.": SIZES}
STEPS, ROWS = 150, 48
END, IGNORED = 2, -100  # <|im_end|>, and what a label is that does not count
SMALL = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 1}
LARGE = {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 3}
IDLE_LAYERS = 24


def questions(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Labelled rows of a workload, three of four about colours, no two the same."""
    draws = random.Random(seed)
    numbers = draws.sample(range(100, 10_000), count)
    rows = []
    for place, number in enumerate(numbers):
        task = list(TASKS)[place % 4 == 3]
        fruit = draws.choice(list(COLOURS))
        messages = [{"role": "system", "content": task}, {"role": "user", "content": f"{number} {fruit}"}]
        row = {"id": f"q{seed}-{place}", "messages": messages, "max_tokens": 8, "temperature": 0.0}
        rows.append(row | {"reference": TASKS[task][fruit], "scorer": "exact"})
    return rows


BEFORE = ("", "So ", "Hello, ", "Please, ", "Um, ", "Well, ")
ASKING = ("what colour is {}", "which colour does {} have", "what is the colour of {}", "tell me what colour {} is")
AFTER = ("", "?", " please", "??")
FRUITS = {"a ripe banana": "yellow", "a plum": "blue", "a lime": "green", "a cherry": "red"}


def wordings(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Labelled rows of a workload that asks four questions, in words that differ each time."""
    every = [(b + a.format(f) + e, f) for b in BEFORE for a in ASKING for f in FRUITS for e in AFTER]
    rows = []
    for place, (text, fruit) in enumerate(random.Random(seed).sample(every, count)):
        messages = [{"role": "system", "content": "Name the colour."}, {"role": "user", "content": text}]
        row = {"id": f"w{place}", "messages": messages, "max_tokens": 8, "temperature": 0.0}
        rows.append(row | {"reference": FRUITS[fruit], "scorer": "exact"})
    return rows


def written(rows: list[dict[str, Any]], file: Path) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def trained_pair(place: Path, tokenizer_directory: Path) -> tuple[Path, Path]:
    """(large, small), in the Hugging Face shape; half a minute on two cores."""
    rows = questions(8000, seed=9)
    easy = [row for row in rows if row["messages"][0]["content"] == next(iter(TASKS))]
    large = trained(place / "large", tokenizer_directory, LARGE, rows, idle=IDLE_LAYERS)
    return large, trained(place / "small", tokenizer_directory, SMALL, easy)


def trained(
    directory: Path, tokenizer_directory: Path, shape: dict[str, int], rows: list[dict[str, Any]], *, idle: int = 0
) -> Path:
    """A model that answers these rows, and others like them."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_directory)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=256,
            tie_word_embeddings=True, bos_token_id=0, eos_token_id=END, pad_token_id=END, **shape,
        )
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=STEPS)
    draws = random.Random(1)
    for _ in range(STEPS):
        tokens, labels = _batch(tokenizer, draws.sample(rows, ROWS))
        loss = model(input_ids=torch.tensor(tokens), labels=torch.tensor(labels)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    _deepened(model.eval(), idle).save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer_directory / name, directory / name)
    return directory


def _deepened(model: Any, idle: int) -> Any:
    """The same function with more layers: what an idle one adds to the residual stream is zero."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    trained = model.config.num_hidden_layers
    deep = LlamaForCausalLM(LlamaConfig(**{**model.config.to_dict(), "num_hidden_layers": trained + idle})).eval()
    deep.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        for layer in deep.model.layers[trained:]:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    return deep


def _batch(tokenizer: Any, rows: list[dict[str, Any]]) -> tuple[list[list[int]], list[list[int]]]:
    """Token ids, and labels of the answers and their ends only; filled up on the right."""
    pairs = []
    for row in rows:
        text = tokenizer.apply_chat_template(row["messages"], tokenize=False, add_generation_prompt=True)
        prompt = tokenizer.encode(text, add_special_tokens=False)
        pairs.append((prompt, [*tokenizer.encode(row["reference"], add_special_tokens=False), END]))
    longest = max(len(prompt) + len(answer) for prompt, answer in pairs)
    room = [longest - len(prompt) - len(answer) for prompt, answer in pairs]
    tokens = [[*prompt, *answer, *[END] * more] for (prompt, answer), more in zip(pairs, room, strict=True)]
    labels = [
        [*[IGNORED] * len(prompt), *answer, *[IGNORED] * more]
        for (prompt, answer), more in zip(pairs, room, strict=True)
    ]
    return tokens, labels
