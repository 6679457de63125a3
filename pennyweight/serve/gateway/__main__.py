"""`python -m pennyweight.serve.gateway --description FILE --parent PID`: a gateway of a service that is opened to be
measured. It ends with its parent."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path

from pennyweight import codec
from pennyweight.errors import PennyweightError
from pennyweight.processes import end_with
from pennyweight.serve.gateway.server import run
from pennyweight.serve.gateway.settings import GatewaySettings
from pennyweight.service import Service


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve one service.")
    parser.add_argument("--description", type=Path, required=True, help="the service and the settings as JSON")
    parser.add_argument("--parent", type=int, default=0, help="end when this process does")
    arguments = parser.parse_args()
    if arguments.parent:
        end_with(arguments.parent)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    described = json.loads(arguments.description.read_text(encoding="utf-8"))
    where = str(arguments.description)
    service = codec.value_of(Service, described["service"], where)
    settings = codec.value_of(GatewaySettings, described["settings"], where)
    try:
        run(service, settings, arguments.description.parent, None, lambda _: None)
    except PennyweightError as error:
        print(f"pennyweight: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
