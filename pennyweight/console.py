"""Progress of long operations: the stage, steps done and time left. A live line on a terminal, else plain lines; on
standard error, so that results can be piped."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from pennyweight.measurement import Measurement
from pennyweight.study import Stage, Trial

QUIET_SECONDS = 9.0  # between lines where there is no terminal to redraw
MIN_DONE = 2  # steps before the time left is shown: the first step includes the start-up
FIGURES = (
    ("output_throughput", "{:.0f} tokens/s"),
    ("ttft_p95_ms", "TTFT p95 {:.0f} ms"),
    ("tpot_p95_ms", "TPOT p95 {:.0f} ms"),
    ("added_nats", "{:+.4f} nats"),
    ("agreement", "agreement {:.3f}"),
    ("task_score", "task score {:.3f}"),
)


class Live:
    """A listener that shows progress. Every stage prints at least every ten seconds, even without news."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._task: TaskID | None = None
        self._text = ""
        self._at: tuple[int, int, str] | None = None  # the last progress
        self._began, self._spoke = 0.0, 0.0
        self._first: tuple[float, int] | None = None  # when the first step was done, and how many were
        self._ended = threading.Event()

    def __enter__(self) -> Live:
        self._progress.start()
        if not self.console.is_terminal:
            threading.Thread(target=self._speak, name="progress", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._progress.stop()

    def stage(self, text: str) -> None:
        self._text, self._first, self._at = text, None, None
        self._began = self._spoke = time.monotonic()
        if self.console.is_terminal:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._task = self._progress.add_task(text, total=None, state="")
        else:
            print(text, file=sys.stderr, flush=True)

    def progress(self, done: int, total: int, note: str = "") -> None:
        self._at = (done, total, note)
        state = self._said(done, total, note)
        if self._task is not None:
            self._progress.update(self._task, completed=done, total=total, state=state)

    def trial(self, trial: Trial) -> None:
        self.line(trial_line(trial))

    def line(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def _said(self, done: int, total: int, note: str) -> str:
        now = time.monotonic()
        if self._first is None and done >= 1:
            self._first = (now, done)
        said = f"{done}/{total}" + (f", {note}" if note else "")
        if self._first is not None and done - self._first[1] >= MIN_DONE and done < total:
            left = (now - self._first[0]) / (done - self._first[1]) * (total - done)
            said += f", about {duration(left)} left"
        elif now - self._began > QUIET_SECONDS:  # before the first step is done there is nothing to judge the rest by
            said += f", {duration(now - self._began)} so far"
        return said

    def _speak(self) -> None:
        while not self._ended.wait(0.5):
            if self._text and time.monotonic() - self._spoke > QUIET_SECONDS:
                passed = duration(time.monotonic() - self._began)
                state = self._said(*self._at) if self._at else f"{passed} so far"
                print(f"  {self._text}: {state}", file=sys.stderr, flush=True)
                self._spoke = time.monotonic()


class Silent:
    """A listener that says nothing."""

    def stage(self, text: str) -> None:
        del text

    def progress(self, done: int, total: int, note: str = "") -> None:
        del done, total, note

    def trial(self, trial: Trial) -> None:
        del trial


def duration(seconds: float) -> str:
    """`95` -> 1 min 35 s."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        minutes, rest = divmod(whole, 60)
        return f"{minutes} min {rest} s" if minutes < 10 and rest else f"{minutes} min"
    hours, rest = divmod(round(whole / 60), 60)
    return f"{hours} h {rest} min" if rest else f"{hours} h"


def trial_line(trial: Trial) -> str:
    """One trial in one line."""
    head = f"{trial.stage:<8} {trial.deployment.short_label}"
    if trial.failure:
        return f"{head}: {'skipped' if trial.stage is Stage.SKIP else 'failed'}, {trial.failure}"
    if trial.comparison is not None:
        return f"{head}: ratio {trial.comparison.ratio:.2f}"
    if trial.measurement is None:
        return head
    streams = f", {trial.notes['streams']} streams" if trial.stage is Stage.SWEEP else ""
    return f"{head}{streams}: {figures(trial.measurement)} ({duration(trial.seconds)})"


def figures(measurement: Measurement) -> str:
    """The few numbers that a line has room for."""
    shown = [form.format(measurement[name]) for name, form in FIGURES if name in measurement]
    if "peak_memory_bytes" in measurement:
        shown.append(f"{measurement['peak_memory_bytes'] / 2**20:.0f} MiB")
    return ", ".join(shown)
