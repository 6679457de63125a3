"""llama.cpp built for this CPU against a prebuilt wheel, bare servers both; and, where one was built, against the same
source with AVX2 at most. All kept running, in turns. One line of JSON per scheme and load.

    python -m benchmarks.llamacpp [--rounds 3] [--schemes Q8_0 Q4_0] [--avx2 DIR]

The wheel is xllamacpp's: AVX2, FMA, F16C and BMI2 at most. It is installed into an environment of its own, for this
once. `--avx2` is a folder of engines (PENNYWEIGHT_ENGINES) whose llamacpp was built so: that leaves out what
differs between the two versions of llama.cpp. Needs `pw engines install llamacpp`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from benchmarks.engines import CELLS, long_text, run, say
from benchmarks.gateway import answers
from pennyweight import checkpoint, techniques, traces
from pennyweight.engines.llamacpp.settings import LlamaCpp
from pennyweight.hardware import available_cores
from pennyweight.processes import end_with_parent, free_port
from pennyweight.search.bench import build_scheme
from pennyweight.serve import Endpoint
from pennyweight.techniques.dequantize import Dequantize
from pennyweight.tokenizer import Tokenizer
from pennyweight.workload import texts

WHEEL = "xllamacpp==2026.10.11549"
SLOTS, LENGTH = 32, 1024
HTTP_THREADS = SLOTS + 8
START_SECONDS = 120.0
WHEEL_SERVER = """
import json, sys, threading

import xllamacpp

told = json.loads(sys.argv[1])
settings = xllamacpp.CommonParams()
settings.model.path = told["model"]
settings.hostnames = ["127.0.0.1"]
settings.port = told["port"]
settings.n_parallel = told["slots"]
settings.n_ctx = told["slots"] * told["length"]
settings.n_batch = settings.n_ubatch = told["batch"]
settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = told["threads"]
settings.kv_unified = False
settings.cache_ram_mib = 0
settings.n_threads_http = told["http_threads"]
server = xllamacpp.Server(settings)
threading.Event().wait()
"""


@contextmanager
def started(command: list[str], port: int) -> Iterator[Endpoint]:
    """A server of others, up and answering; it ends with us."""
    quiet = subprocess.DEVNULL
    server = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, preexec_fn=end_with_parent)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_SECONDS
        while not answers(f"{url}/health"):
            if server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{' '.join(command)[:200]} did not start (exit code {server.poll()}).")
            time.sleep(0.1)
        yield Endpoint(url, "model")
    finally:
        server.kill()
        server.wait()


def wheel_python(directory: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)
    python = directory / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", WHEEL]
    subprocess.run(pip, check=True)
    return python


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--schemes", nargs="+", default=["Q8_0", "Q4_0"])
    parser.add_argument("--avx2", type=Path)
    arguments = parser.parse_args()
    model = techniques.apply(Dequantize(), checkpoint.open_model("demo"))
    tokens = long_text(Tokenizer(model.path))
    calibration = tuple(texts(traces.load("chat").requests)[:32])
    settings = LlamaCpp(max_num_seqs=SLOTS, max_model_len=LENGTH)
    programs = {"native": settings.program()}
    if programs["native"] is None:
        raise SystemExit("There is no llama-server here: pw engines install llamacpp.")
    if arguments.avx2:
        programs["avx2"] = str(arguments.avx2 / "llamacpp" / "llama-server")
    with tempfile.TemporaryDirectory() as directory:
        python = wheel_python(Path(directory) / "wheel")
        for scheme in arguments.schemes:
            made = build_scheme(model, "llamacpp", scheme, calibration=calibration)
            (file,) = Path(made.path).glob("*.gguf")
            with ExitStack() as kept:
                servers = {}
                port = free_port("127.0.0.1")
                told = {
                    "model": str(file),
                    "port": port,
                    "slots": SLOTS,
                    "length": LENGTH,
                    "batch": settings.max_num_batched_tokens,
                    "threads": available_cores(),
                    "http_threads": HTTP_THREADS,
                }
                wheel = [str(python), "-c", WHEEL_SERVER, json.dumps(told)]
                servers["wheel"] = kept.enter_context(started(wheel, port))
                for name, program in programs.items():
                    port = free_port("127.0.0.1")
                    command = [str(program), *settings.arguments(file, model.config), "--host", "127.0.0.1"]
                    command += ["--port", str(port), "--threads-http", str(HTTP_THREADS)]
                    servers[name] = kept.enter_context(started(command, port))
                in_turns(servers, scheme, tokens, arguments.rounds)


def in_turns(servers: dict[str, Endpoint], scheme: str, tokens: list[int], rounds: int) -> None:
    for cell in CELLS:
        speeds: dict[str, list[float]] = {name: [] for name in servers}
        for number in range(rounds):
            load = cell.load(tokens).variant(10 * number)
            for name in list(servers)[:: 1 if number % 2 == 0 else -1]:
                speeds[name].append(run(servers[name], cell, load))
        for name in speeds.keys() - {"native"}:
            ratios = np.array(speeds["native"]) / np.array(speeds[name])
            say(
                part="native",
                against=name,
                scheme=scheme,
                prompt=cell.prompt,
                streams=cell.streams,
                times_as_fast=[round(float(ratio), 2) for ratio in ratios],
                mean=round(float(np.exp(np.log(ratios).mean())), 2),
                tokens_per_s=[round(speed, 1) for speed in speeds["native"]],
            )


if __name__ == "__main__":
    main()
