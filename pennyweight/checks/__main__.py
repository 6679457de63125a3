"""The process that asks transformers: `python -m pennyweight.checks DIRECTORY` prints a line of JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pennyweight.checks.stock import report

if __name__ == "__main__":
    print(f"\n{json.dumps(report(Path(sys.argv[1])))}", flush=True)
