"""The job process: does the work of one technique, as jobs.py wrote it down in a file."""

import json
import sys
from pathlib import Path

from pennyweight.errors import PennyweightError
from pennyweight.techniques import base

if __name__ == "__main__":
    spec = json.loads(Path(sys.argv[1]).read_text())
    sys.path.extend(place for place in spec["path"] if place not in sys.path)  # a technique of the user's own
    try:
        technique = base.from_json(spec["class"], spec["settings"])
        technique.build(Path(spec["source"]), Path(spec["target"]))
    except PennyweightError as error:
        print(f"pennyweight: {error}", flush=True)
        sys.exit(error.exit_code)
