"""A labelled workload where a small model is sometimes right: GSM8K, SVAMP, BoolQ and commonsense questions from
PENNYWEIGHT_DATA/tasks, as chats with short answers.

    python -m benchmarks.pair_workload [--count 600] > pair.jsonl
"""

from __future__ import annotations

import argparse
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PARTS = {"gsm8k": 0.05, "svamp": 0.25, "boolq": 0.3, "commonsense": 0.4}  # shares of the requests
BRIEF = "\nAnswer with the number alone."
LONGEST = 600  # characters of a question: two cores read some 60 tokens a second of the 1.5B model
FILES = {"gsm8k": "gsm8k_test", "svamp": "svamp", "boolq": "boolq", "commonsense": "commonsense_qa"}


def request(kind: str, number: int, row: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {"id": f"{kind}-{number}", "session": f"{kind}-{number}", "kind": kind}
    if kind in ("gsm8k", "svamp"):
        text = row["question"] if kind == "gsm8k" else row["context"]
        answer = row["answer"].split("####")[-1].strip().replace(",", "")
        made |= {"reference": answer, "scorer": "numeric", "max_tokens": 8}
        text += BRIEF
    else:
        right = row["choices"][row["gold"]]
        made |= {"reference": right, "scorer": "choice", "choices": row["choices"], "max_tokens": 4}
        names = ", ".join(row["choices"])
        text = f"{row['query'].removesuffix('Answer:')}\nAnswer with one of {names}, nothing else."
    return {**made, "messages": [{"role": "user", "content": text}]}


def requests(count: int) -> Iterator[dict[str, Any]]:
    place = Path(os.environ["PENNYWEIGHT_DATA"]) / "tasks"
    for kind, share in PARTS.items():
        rows = [json.loads(line) for line in (place / f"{FILES[kind]}.jsonl").read_text(encoding="utf-8").splitlines()]
        made = [request(kind, number, row) for number, row in enumerate(rows)]
        short = [one for one in made if len(one["messages"][0]["content"]) <= LONGEST]
        yield from random.Random(0).sample(short, min(len(short), round(share * count)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=600)
    for row in requests(parser.parse_args().count):
        print(json.dumps(row, ensure_ascii=False))


if __name__ == "__main__":
    main()
