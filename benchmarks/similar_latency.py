"""What the cache of similar answers adds to a miss, and how soon a hit is answered.

    python -m benchmarks.similar_latency [--entries 10000] [--requests 200] [--rounds 3]

Two gateways on the scripted engine, asked one request at a time and in turns: one caches equal answers alone, one also
similar answers, of which that many are kept in one partition. Milliseconds from the request to the whole answer of
some tokens. Needs `pip install pennyweight[similar]`. Targets: a miss at most 3 ms later (p50), a hit in under 10 ms.
"""

from __future__ import annotations

import argparse
import http.client
import json
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.gateway import say, scripted
from pennyweight.embedding import Reading, SentenceEmbedding
from pennyweight.serve import Endpoint, open_service
from pennyweight.serve.gateway.similar_sqlite import SQLiteSimilarStore
from pennyweight.serve.gateway.similar_store import Kept
from pennyweight.service import CachePolicy, Service, SimilarPolicy
from pennyweight.similarity.bound import THRESHOLDS

NOISE = 0.5  # of kept questions' vectors, beside real ones of length 1
PLAIN, SIMILAR = "equal answers alone", "similar answers too"
SETTLE_SECONDS = 2.0


class Client:
    """One kept connection."""

    def __init__(self, endpoint: Endpoint) -> None:
        host, _, port = endpoint.base_url.removeprefix("http://").partition(":")
        self._connection = http.client.HTTPConnection(host, int(port.partition("/")[0]), timeout=30)
        self._model = endpoint.model

    def ask(self, question: str) -> tuple[float, str]:
        """Milliseconds to the whole answer, and what the cache says of it."""
        messages = [{"role": "user", "content": question}]
        asked = {"model": self._model, "messages": messages, "max_tokens": 64, "temperature": 0, "stop": ["a"]}
        body = json.dumps(asked)
        began = time.perf_counter()
        self._connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
        answer = self._connection.getresponse()
        answer.read()
        assert answer.status == 200, answer.status
        return 1000 * (time.perf_counter() - began), answer.headers.get("x-pennyweight-cache", "")


@contextmanager
def gateway(place: Path, similar: SimilarPolicy | None) -> Iterator[Client]:
    policy = CachePolicy(str(place / "answers.db"))
    if similar is not None:
        policy = replace(policy, similar=similar)
    service = replace(Service.of(scripted(), ["m"]), cache=policy)
    with open_service(service) as endpoint:
        yield Client(endpoint)


def question(number: int) -> str:
    return f"Which of the {number % 97} lists holds entry number {number}?"


def filled(place: Path, entries: int, similar: SimilarPolicy) -> None:
    """A store of the gateway's own, with the others' rows beside its one, and a threshold that was earned."""
    with gateway(place, similar) as client:
        client.ask("How do I lock my card?")
        time.sleep(SETTLE_SECONDS)
        client.ask("So how do I lock my card?")  # a would-be hit: from its label on there is a state
        time.sleep(SETTLE_SECONDS)
    store = SQLiteSimilarStore(place / "answers.db", 1e9)
    partition, read, draws = (
        store.all()[0].partition,
        SentenceEmbedding(num_threads=1, eight_bit=True).read,
        np.random.default_rng(0),
    )
    known = [read([question(number)])[0] for number in range(200)]
    for number in range(entries):
        one = known[number % len(known)]
        vector = one.vector + NOISE * draws.normal(size=len(one.vector)) / np.sqrt(len(one.vector))
        moved = Reading(vector / np.linalg.norm(vector), one.tokens, one.states)
        body = b'{"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]}'
        store.put(
            Kept(uuid.uuid4().hex, partition, question(number), moved, "application/json", body, "x", time.time())
        )
        if number % 1000 == 0:
            store.flush()
    state = store.state()
    store.set_state({**state, "threshold": {"score": THRESHOLDS[-1], "labelled": 100, "wrong": 0, "bound": 0.04}})
    store.flush()


def measure(entries: int, requests: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory(prefix="pennyweight-") as name, ExitStack() as stack:
        place, similar = Path(name), SimilarPolicy(0.05, explored=0.001)
        (place / "plain").mkdir()
        filled(place, entries, similar)
        clients = {
            PLAIN: stack.enter_context(gateway(place / "plain", None)),
            SIMILAR: stack.enter_context(gateway(place, similar)),
        }
        for client in clients.values():
            client.ask("warm up")
            client.ask("warm up again")
        times: dict[str, list[float]] = {f"{PLAIN}, miss": [], f"{SIMILAR}, miss": [], "hit": []}
        for number in range(rounds * requests):
            for name, client in clients.items() if number % 2 else reversed(clients.items()):
                took, said = client.ask(f"Tell me about the river number {number} of the {number % 7} lands")
                assert said == "miss", said
                times[f"{name}, miss"].append(took)
            took, said = clients[SIMILAR].ask(f"{'so ' * (1 + number % 3)}how do I lock my card{'?' * (number % 9)}")
            if said == "similar":
                times["hit"].append(took)
        added = np.array(times[f"{SIMILAR}, miss"]) - np.array(times[f"{PLAIN}, miss"])
        for name, values in times.items():
            say(part=name, entries=entries, count=len(values), **_quantiles(values))
        say(part="added to a miss", entries=entries, count=len(added), **_quantiles(added.tolist()))


def _quantiles(values: list[float]) -> dict[str, float]:
    return {f"p{p}_ms": round(float(np.percentile(values, p)), 2) for p in (25, 50, 75, 95)} if values else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=10_000)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    measure(given.entries, given.requests, given.rounds)


if __name__ == "__main__":
    main()
