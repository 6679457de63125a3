"""A proxy that takes from a server's answers what OpenAI's own does not give: token ids, and scores of a prompt."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from pennyweight.serve import Endpoint


class StrippedServer:
    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def __enter__(self) -> Endpoint:
        behind = self._endpoint.base_url

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                if body.get("echo"):
                    self._answer(400, {"error": {"message": "echo is not supported"}})
                    return
                asked = urllib.request.Request(
                    behind + self.path, json.dumps(body).encode(), {"content-type": "application/json"}
                )
                with urllib.request.urlopen(asked) as answer:
                    whole = json.loads(answer.read())
                for choice in whole["choices"]:
                    choice.pop("token_ids", None)
                    choice.pop("prompt_token_ids", None)
                self._answer(200, whole)

            def _answer(self, status: int, value: object) -> None:
                payload = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return replace(self._endpoint, process=None, base_url=f"http://127.0.0.1:{self._server.server_address[1]}")

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
