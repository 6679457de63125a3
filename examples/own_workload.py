"""Measure a service on requests of your own, labelled, from a program.

    python own_workload.py DIRECTORY

The same requests as JSON lines work with every verb: `pw bench DIRECTORY -w requests.jsonl`.
"""

import sys

import pennyweight as pw

QUESTIONS = {f"{a} + {b} =": str(a + b) for a in range(2, 10) for b in range(3, 8)}


def main(directory: str) -> None:
    requests = [
        pw.Request(
            id=f"sum-{number}",
            session=f"sum-{number}",
            messages=({"role": "user", "content": question},),
            max_tokens=8,
            reference=answer,
            scorer="numeric",
        )
        for number, (question, answer) in enumerate(QUESTIONS.items())
    ]
    measured = pw.bench(directory, pw.Workload("sums", tuple(requests)), max_concurrency=4)
    print(f"{measured['output_throughput']:.0f} output tokens/s, TTFT p50 {measured['ttft_p50_ms']:.0f} ms")


if __name__ == "__main__":
    main(sys.argv[1])
