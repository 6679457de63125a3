"""Search against exhaustive: the same question asked both ways, in one run. Target: the search's choice within 5% of
the best candidate that the exhaustive run finds, at no more than half its cost.

    python benchmarks/search.py [--engines openvino,onnxruntime,transformers] [--out DIR]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pennyweight.search.verify import read_evidence


def ask(out: Path, engines: str, *more: str) -> tuple[dict[str, Any], list[dict[str, Any]], float]:
    """The summary, the trials and the seconds that it took to choose: proofs and comparisons are the same in both."""
    command = [sys.executable, "-m", "pennyweight", "optimize", "demo", "-o", str(out), "--engines", engines, "--json",
               "--rounds", "2", *more]  # fmt: skip
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    lines = (out / "study.jsonl").read_text().splitlines()[1:]
    trials = [json.loads(line) for line in lines]
    seconds = sum(t["seconds"] for t in trials if t["stage"] in ("screen", "tune"))
    return json.loads(output.splitlines()[-1]), trials, seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--engines", default="openvino,onnxruntime,transformers")
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    root = arguments.out or Path(tempfile.mkdtemp(prefix="pennyweight-search-"))
    started = time.perf_counter()
    found, _, search_seconds = ask(root / "search", arguments.engines)
    _, every, exhaustive_seconds = ask(root / "exhaustive", arguments.engines, "--exhaustive")
    # Both choices are judged by the exhaustive run's own numbers, so that the machine's drift between them cancels.
    accepted = read_evidence(root / "exhaustive")
    speeds = {
        (t["deployment"]["engine"], t["deployment"]["scheme"], json.dumps(t["deployment"]["settings"], sort_keys=True)):
        t["measurement"]["quantities"]["output_throughput"]["value"]
        for t in every if t["stage"] == "tune" and t["measurement"]
    }  # fmt: skip

    def speed(deployment: dict[str, Any]) -> float:
        key = (deployment["engine"], deployment["scheme"], json.dumps(deployment["settings"], sort_keys=True))
        return float(speeds[key])

    share = speed(found["chosen"]) / speed(accepted["chosen"])
    row = {
        "search_chose": found["chosen"], "exhaustive_chose": accepted["chosen"], "share_of_best": share,
        "search_seconds": search_seconds, "exhaustive_seconds": exhaustive_seconds,
        "cost_ratio": search_seconds / exhaustive_seconds, "candidates": len(speeds),
        "wall_seconds": time.perf_counter() - started,
    }  # fmt: skip
    print(json.dumps(row))


if __name__ == "__main__":
    main()
