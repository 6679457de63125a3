"""Find the cheapest deployment from a program, and serve it.

    python library.py [MODEL] [OUTPUT]

MODEL is a Hub id, a directory, a .gguf file or `demo` (the default, about ten minutes on two cores).
"""

import sys

import pennyweight as pw


def main(model: str = "demo", output: str = "library-out") -> None:
    budget = pw.Budget(max_added_nats=0.02)
    answer = pw.optimize(model, "tasks", budget, output=output, streams=8, engines=("openvino",))
    if answer.chosen is None:
        sys.exit(f"{answer.outcome}: see {output}/report.html for what came nearest.")
    print(f"Chosen: {answer.chosen.label}")
    if answer.against_unmodified is not None:
        ratio = answer.against_unmodified
        print(f"{ratio.ratio:.2f} times the fastest unmodified engine ({ratio.describe_interval()})")
    with pw.open_service(output) as endpoint:
        print(f"Serving {endpoint.model} at {endpoint.base_url}/v1")


if __name__ == "__main__":
    main(*sys.argv[1:])
