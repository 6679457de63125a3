"""The job process: does the work of one technique, as `techniques.apply` spelled it in a file."""

import json
import sys
from pathlib import Path

from pennyweight.errors import PennyweightError
from pennyweight.techniques import base

if __name__ == "__main__":
    spec = json.loads(Path(sys.argv[1]).read_text())
    try:
        technique = base.from_json(spec["technique"], spec["settings"])
        technique.build(Path(spec["source"]), Path(spec["target"]))
    except PennyweightError as error:
        print(f"pennyweight: {error}", flush=True)
        sys.exit(error.exit_code)
