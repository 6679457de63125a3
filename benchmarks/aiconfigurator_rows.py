"""What AIConfigurator estimates for rows of benchmarks/plan.py. It runs in an environment of its own, where
`pip install aiconfigurator==0.12.0` was done: reads one JSON object a line, and answers each with [TPOT, TTFT] in
milliseconds, or null where it gives no estimate."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from typing import Any


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    from aiconfigurator.cli.api import cli_estimate

    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        row: dict[str, Any] = json.loads(line)
        try:
            found = cli_estimate(row.pop("model_path"), row.pop("system_name"), **row)
            answer = [float(found.tpot), float(found.ttft)]
        except Exception as error:  # whatever it does not know
            print(repr(error)[:200], file=sys.stderr)
            answer = None
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
