"""A labelled workload where a small model is sometimes right: GSM8K, SVAMP, BoolQ, and the year that a sentence names
(extraction), from PENNYWEIGHT_DATA/tasks, as chats with short answers. Each kind has instructions of its own, as each
application of a company has.

    python -m benchmarks.pair_workload [--count 600] > pair.jsonl
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PARTS = {"extraction": 0.5, "svamp": 0.2, "boolq": 0.2, "gsm8k": 0.1}  # shares of the requests
NUMBER = "Solve the problem. Answer with the number alone."
INSTRUCTIONS = {
    "extraction": "Which year does the sentence name? Answer with the year alone.",
    "svamp": NUMBER,
    "gsm8k": NUMBER,
    "boolq": "Answer the question about the passage with yes or no, nothing else.",
}
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
YEAR = re.compile(r"\b(?:1[5-9]\d\d|20[0-2]\d)\b")
LONGEST = 300  # characters of a question: two cores read some 60 tokens a second of the 1.5B model
FILES = {"gsm8k": "gsm8k_test", "svamp": "svamp", "boolq": "boolq", "extraction": "boolq"}


def request(kind: str, number: int, row: dict[str, Any]) -> dict[str, Any] | None:
    """None where a row is none of its kind."""
    made: dict[str, Any] = {"id": f"{kind}-{number}", "session": f"{FILES[kind]}-{number}", "kind": kind}
    if kind == "boolq":
        text = row["query"].removesuffix("Answer:")
        made |= {"reference": row["choices"][row["gold"]], "scorer": "choice", "choices": row["choices"]}
    elif kind == "extraction":
        sentences = SENTENCE_END.split(row["query"].split("\nQuestion:")[0].removeprefix("Passage: "))
        text = next((one for one in sentences if len(YEAR.findall(one)) == 1), "")
        if not text:
            return None
        made |= {"reference": YEAR.findall(text)[0], "scorer": "numeric"}
    else:
        text = row["question"] if kind == "gsm8k" else row["context"]
        answer = row["answer"].split("####")[-1].strip().replace(",", "")
        made |= {"reference": answer, "scorer": "numeric"}
    if len(text) > LONGEST:
        return None
    chat = [{"role": "system", "content": INSTRUCTIONS[kind]}, {"role": "user", "content": text}]
    return {**made, "max_tokens": 8, "messages": chat}


def requests(count: int) -> Iterator[dict[str, Any]]:
    place = Path(os.environ["PENNYWEIGHT_DATA"]) / "tasks"
    for kind, share in PARTS.items():
        rows = [json.loads(line) for line in (place / f"{FILES[kind]}.jsonl").read_text(encoding="utf-8").splitlines()]
        made = [one for number, row in enumerate(rows) if (one := request(kind, number, row))]
        yield from random.Random(0).sample(made, min(len(made), round(share * count)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=600)
    for row in requests(parser.parse_args().count):
        print(json.dumps(row, ensure_ascii=False))


if __name__ == "__main__":
    main()
