"""What a person sees while something long runs: the stage, how far it is, how much time is left."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pennyweight.measurement import Measurement
from pennyweight.study import Trial

QUIET_SECONDS = 15.0  # between lines where there is no terminal to redraw


class Live:
    """A live line on a terminal, plain lines elsewhere. It goes to standard error, so results can be piped."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._task: TaskID | None = None
        self._text = ""
        self._began = 0.0
        self._spoke = 0.0

    def __enter__(self) -> Live:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def stage(self, text: str) -> None:
        self._text = text
        self._began = time.monotonic()
        if self.console.is_terminal:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._task = self._progress.add_task(text, total=None)
        else:
            print(text, file=sys.stderr, flush=True)
            self._spoke = time.monotonic()

    def progress(self, done: int, total: int, note: str = "") -> None:
        if self._task is not None:
            text = f"{self._text} ({note})" if note else self._text
            self._progress.update(self._task, completed=done, total=total, description=text)
        elif not self.console.is_terminal and time.monotonic() - self._spoke > QUIET_SECONDS:
            left = (time.monotonic() - self._began) / max(done, 1) * (total - done)
            said = f", {note}" if note else ""
            print(f"  {self._text}: {done}/{total}{said}, about {left:.0f} s left", file=sys.stderr, flush=True)
            self._spoke = time.monotonic()

    def trial(self, trial: Trial) -> None:
        self.line(trial_line(trial))

    def line(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)


def trial_line(trial: Trial) -> str:
    """One trial in one line."""
    head = f"{trial.stage:<8} {trial.deployment.label}"
    if trial.failure:
        return f"{head}: {'skipped' if trial.stage == 'skip' else 'failed'}, {trial.failure}"
    if trial.measurement is None:
        return f"{head}: ratio {trial.notes['ratio']:.2f}" if "ratio" in trial.notes else head
    return f"{head}: {figures(trial.measurement)} ({trial.seconds:.0f} s)"


def figures(measurement: Measurement) -> str:
    """The few numbers that a line has room for."""
    shown = []
    for name, form in (
        ("output_throughput", "{:.0f} tokens/s"),
        ("ttft_p95_ms", "TTFT p95 {:.0f} ms"),
        ("tpot_p95_ms", "TPOT p95 {:.0f} ms"),
        ("added_nats", "{:+.4f} nats"),
        ("agreement", "agreement {:.3f}"),
        ("task_score", "task score {:.3f}"),
    ):
        if name in measurement:
            shown.append(form.format(measurement[name]))
    if "peak_memory_bytes" in measurement:
        shown.append(f"{measurement['peak_memory_bytes'] / 2**20:.0f} MiB")
    return ", ".join(shown)
