"""A bench that measures nothing: speeds and losses by deployment, as a test wrote them. What a search decides is tested
with it exactly, and in milliseconds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pennyweight.budget import Budget
from pennyweight.deployment import Deployment
from pennyweight.errors import EngineError
from pennyweight.evidence import Reference
from pennyweight.hardware import Hardware
from pennyweight.measure.compare import Opener, summarise
from pennyweight.measure.proof import proof
from pennyweight.measure.proof.allowance import Allowance
from pennyweight.measure.proof.proof import Evaluation
from pennyweight.measurement import Comparison, Measurement, Quantity, collect
from pennyweight.model import Lineage, Model
from pennyweight.plan.cost import Load
from pennyweight.search.attempts import Attempts
from pennyweight.search.baseline import BaselineAnswers
from pennyweight.search.candidates import Candidate, Space
from pennyweight.search.loop import SCREEN_LOOK, Search
from pennyweight.search.question import Question
from pennyweight.search.translation import AnswerTranslation
from pennyweight.search.trials import Trials
from pennyweight.study import Study, Trial
from pennyweight.workload import Request, Workload

CONFIG = (
    '{"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,'
    ' "intermediate_size": 128, "vocab_size": 512}'
)
MACHINE = Hardware("cpu", 2, 1 << 36, memory_bandwidth=3e10, arithmetic_rate={"f32": 3e11, "bf16": 1e12, "int8": 2e12})
HARMLESS = tuple(limit.quantity for limit in Budget().quality_limits if limit.quantity != "added_nats")
Speeds = Callable[[Deployment, int], float]  # by deployment and how often it ran before


@dataclass
class FakeBench:
    """`speed` gives tokens/s, `nats` what is added by scheme and recipe. Deployments that `broken` names fail as it
    says. `opened` and `asked` record what was spent."""

    speed_of: Speeds
    nats: Mapping[str, float] = field(default_factory=dict)
    broken: Mapping[str, str] = field(default_factory=dict)
    elsewhere: Mapping[str, float] = field(default_factory=dict)  # engine -> its divergence, in whatever scheme
    budget: Budget = field(default_factory=Budget)
    ttft_ms: float = 100.0
    interrupt_after: int | None = None  # answers of the baseline
    opened: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    runs: dict[str, int] = field(default_factory=dict)

    def build(self, candidate: Candidate, calibration: Sequence[str], prompts: Sequence[str]) -> Model:
        return Model(Path(f"/made/{candidate.scheme}"), "gguf", candidate.scheme, Lineage("tiny", {"a": "1"}))

    @contextlib.contextmanager
    def open(self, deployment: Deployment) -> Iterator[Deployment]:
        self.opened.append(deployment.label)
        for name, fault in self.broken.items():
            if name in deployment.label:
                raise EngineError(fault)
        yield deployment

    def speed(
        self, running: Deployment, load: Workload, *, streams: int | None = None, warm_with: Workload | None = None
    ) -> Measurement:
        number = self.runs[running.id] = self.runs.get(running.id, -1) + 1
        tokens = self.speed_of(running, number)
        values = [
            ("output_throughput", tokens, "tokens/s", "higher"),
            ("total_throughput", 2 * tokens, "tokens/s", "higher"),
            ("duration_s", 10.0, "s", "lower"),
            ("output_tokens", 10 * tokens, "tokens", "higher"),
            ("ttft_p95_ms", self.ttft_ms, "ms", "lower"),
            ("e2e_p50_ms", 1e6 / tokens, "ms", "lower"),
            ("peak_memory_bytes", 1e8, "bytes", "lower"),
        ]
        return collect(running.label, [Quantity(*value) for value in values])  # type: ignore[arg-type]

    def references(self, running: Deployment, half: Workload, keep: Callable[[Reference], None]) -> Sequence[Reference]:
        made = []
        for request in half.requests:
            if self.interrupt_after is not None and len(self.asked) >= self.interrupt_after:
                self.interrupt_after = None
                raise KeyboardInterrupt
            self.asked.append(request.id)
            reference = Reference(request.id, (1,), (2, 3), "an answer", (-0.5, -0.5), (True, True))
            keep(reference)
            made.append(reference)
        return made

    def quality(
        self,
        running: Deployment,
        half: Workload,
        references: Mapping[str, Reference],
        allowance: Allowance | None = None,
    ) -> Evaluation:
        added = self.nats.get(running.recipe or running.scheme, 0.0)
        values = [
            Quantity("added_nats", added, "nats/token", "lower", interval=(added - 0.001, added + 0.001)),
            Quantity("agreement", 1.0, "1", "higher"),
            *(Quantity(name, self.diverged(running, name), "1", "lower") for name in HARMLESS),
        ]
        measurement = collect(running.label, values, {"requests": len(half.requests)})
        return Evaluation(measurement, proof.judge(self.budget, measurement))

    def diverged(self, running: Deployment, quantity: str) -> float:
        return self.elsewhere.get(running.engine, 0.0) if quantity == "divergence" else 0.0

    def kernels(self, running: Deployment) -> Sequence[str]:
        return ["of a fake"]

    def compare(
        self, openers: Sequence[Opener], load: Workload, *, streams: int, warm_with: Workload | None = None
    ) -> Comparison:
        with contextlib.ExitStack() as stack:
            first, second = (opener(stack) for opener in openers)
        a, b = (self.speed_of(one, 0) for one in (first, second))  # type: ignore[arg-type]
        return summarise([a, a * 1.01], [b, b])


class Recorder:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.trials: list[Trial] = []

    def stage(self, text: str) -> None:
        self.stages.append(text)

    def progress(self, done: int, total: int, note: str = "") -> None: ...

    def trial(self, trial: Trial) -> None:
        self.trials.append(trial)


def candidates(*groups: tuple[str, str], **choices: Sequence[object]) -> Space:
    """Groups of engine and scheme, each with all of these settings; the first value of each is the default."""
    settings: list[dict[str, object]] = [{"max_num_seqs": 4}]
    for name, values in choices.items():
        settings = [{**one, name: value} for value in values for one in settings]
    made = {
        (engine, scheme, ""): tuple(Candidate(engine, scheme, one) for one in settings) for engine, scheme in groups
    }
    return Space(made, ())


def search(
    bench: FakeBench,
    space: Space,
    directory: Path,
    *,
    study: Study | None = None,
    resume: bool = False,
    requests: int = 40,
    **question: object,
) -> Search:
    """A search over this space, its model an empty directory with a config."""
    (directory / "config.json").write_text(CONFIG)
    (directory / "model.safetensors").write_bytes(b"x" * 100)
    model = Model(directory, "huggingface", "F32", Lineage("tiny", {"a": "1"}))
    made = tuple(Request(f"r{n}", f"s{n}", 8, prompt=f"prompt {n}") for n in range(requests))
    asked = Question(model, Workload("fake", made), bench.budget, streams=4, rounds=2, **question)  # type: ignore[arg-type]
    tuning, held_out = asked.workload.split(0)
    look = tuning.take(SCREEN_LOOK)
    answers = BaselineAnswers(tuning, held_out, tuning_look=look, directory=directory, resume=resume)
    trials = Trials(asked, study or Study(), space, MACHINE, Recorder(), Load(100.0, 8.0, 4))
    return Search(trials, bench, answers, AnswerTranslation(directory), Attempts(0.95, "half"))
