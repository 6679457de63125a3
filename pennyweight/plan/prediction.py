"""What a placement will do under a load: prices (prices.py) times what each engine takes of them, fitted on measured
runs, times what is known of this very deployment (residual.py), each with an interval.

The time of a token is (end-to-end - TTFT) / (answer tokens - 1). `known` runs of the same deployment, two are enough,
correct what nothing else could have known.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pennyweight.plan.placement import Placement
from pennyweight.plan.prices import Load, Terms, terms_of
from pennyweight.plan.residual import Kernel, Residual, Row, fit_residual
from pennyweight.shape import ModelShape

Floats = NDArray[np.float64]
ALL = "*"  # engines together
COVERED = 0.9  # share of rows that intervals hold
SIGMAS = 1.6449
ROBUST_ROUNDS, SMALL_ERROR = 8, 0.05
FEWEST_OF_AN_ENGINE = 10
FITTED = "fitted.npz"


@dataclass(frozen=True)
class Case:
    shape: ModelShape
    placement: Placement
    load: Load


@dataclass(frozen=True)
class Known:
    """A measured run: seconds of a token, and until the first one."""

    case: Case
    token_seconds: float
    first_seconds: float


@dataclass(frozen=True)
class Seconds:
    """`low` to `high` hold `COVERED` of measurements."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Prediction:
    token: Seconds
    first: Seconds


@dataclass(frozen=True)
class Side:
    """Of the time of a token, or of the first one: each engine's coefficients of the terms, and the residual."""

    coefficients: Mapping[str, Floats]
    residual: Residual

    def priced(self, terms: Floats, engine: str) -> float:
        return max(1e-6, float(terms @ self.coefficients.get(engine, self.coefficients[ALL])))

    def predict(
        self, rows: Sequence[tuple[Floats, Row]], known: Sequence[tuple[Floats, Row]], seconds: Sequence[float]
    ) -> list[Seconds]:
        priced = [self.priced(terms, row.engine) for terms, row in known]
        values = np.log(np.array(seconds) / np.array(priced))
        mean, deviation = self.residual.given([row for _, row in rows], [row for _, row in known], values)
        value = np.array([self.priced(terms, row.engine) for terms, row in rows]) * np.exp(mean)
        low, high = value * np.exp(-SIGMAS * deviation), value * np.exp(SIGMAS * deviation)
        return [Seconds(*map(float, each)) for each in zip(value, low, high, strict=True)]


@dataclass(frozen=True)
class Predictor:
    """`about` says what it was fitted on."""

    token: Side
    first: Side
    about: str = ""

    def predict(self, cases: Sequence[Case], known: Sequence[Known] = ()) -> list[Prediction]:
        """`known` are runs of the very deployment, or of others."""
        if not cases:
            return []
        wanted, given = [_priced(case) for case in cases], [_priced(one.case) for one in known]
        token = self.token.predict(
            [(terms.token, row) for terms, row in wanted],
            [(terms.token, row) for terms, row in given],
            [one.token_seconds for one in known],
        )
        first = self.first.predict(
            [(terms.prompt, row) for terms, row in wanted],
            [(terms.prompt, row) for terms, row in given],
            [one.first_seconds for one in known],
        )
        return [Prediction(*both) for both in zip(token, first, strict=True)]


def _priced(case: Case) -> tuple[Terms, Row]:
    return terms_of(case.shape, case.placement, case.load), row_of(case)


def row_of(case: Case) -> Row:
    placement, load, shape = case.placement, case.load, case.shape
    devices = placement.devices
    place = (
        load.concurrency,
        load.prompt_tokens,
        load.output_tokens,
        devices,
        load.concurrency * load.prompt_tokens / load.output_tokens / devices,
        load.concurrency / placement.data / devices,
    )
    return Row(
        placement.engine,
        f"{shape.layers}x{shape.hidden_size}x{shape.heads}x{shape.experts}",
        placement.machine.name.removesuffix(" x1"),
        placement.precision,
        placement.version,
        f"{placement.tensor}x{placement.pipeline}x{placement.data}x{placement.expert}",
        tuple(float(np.log(value)) for value in place),
    )


def fitted(runs: Sequence[Known], kernels: tuple[Kernel, Kernel], *, support: int, about: str = "") -> Predictor:
    """Of the time of a token and of the first one: coefficients, then the residual."""
    terms = [terms_of(one.case.shape, one.case.placement, one.case.load) for one in runs]
    rows = [row_of(one.case) for one in runs]
    sides = list[Side]()
    for each, seconds, kernel, pull in (
        (np.array([one.token for one in terms]), np.array([one.token_seconds for one in runs]), kernels[0], 10.0),
        (np.array([one.prompt for one in terms]), np.array([one.first_seconds for one in runs]), kernels[1], 4.0),
    ):
        made = _coefficients(each, seconds, np.array([row.engine for row in rows]), pull)
        bare = Side(made, Residual(kernel, (), np.zeros(0), np.zeros((0, 0))))
        priced = np.array([bare.priced(t, row.engine) for t, row in zip(each, rows, strict=True)])
        sides.append(Side(made, fit_residual(kernel, rows, np.log(seconds / priced), support=support)))
    return Predictor(sides[0], sides[1], about)


def _coefficients(terms: Floats, seconds: Floats, engines: NDArray[np.str_], pull: float) -> dict[str, Floats]:
    """None is negative; each engine's are pulled towards those of all, by `pull` times what its own rows say."""
    together = _fit(terms, seconds)
    found = {ALL: together}
    for engine in sorted(set(engines.tolist())):
        own = engines == engine
        if own.sum() >= FEWEST_OF_AN_ENGINE:
            found[engine] = _fit(terms[own], seconds[own], towards=together, pull=pull)
    return found


def _fit(terms: Floats, seconds: Floats, *, towards: Floats | None = None, pull: float = 0.0) -> Floats:
    """Least relative deviations, by reweighted non-negative least squares."""
    from scipy import optimize

    found = optimize.nnls(terms / seconds[:, None], np.ones(len(seconds)))[0] if towards is None else towards
    for _ in range(ROBUST_ROUNDS):
        priced = np.maximum(terms @ found, 1e-9)
        weight = np.sqrt(1 / np.maximum(np.abs(np.log(priced / seconds)), SMALL_ERROR) / priced / seconds)
        left, right = terms * weight[:, None], seconds * weight
        if towards is not None:
            rows = np.diag(np.sqrt((left**2).mean(0) + 1e-30) * pull)
            left, right = np.vstack([left, rows]), np.concatenate([right, rows @ towards])
        found = optimize.nnls(left, right)[0]
    return np.asarray(found, np.float64)


# -- the fitted predictor as a file --


def packed(predictor: Predictor) -> bytes:
    arrays = dict[str, Any]()
    told: dict[str, Any] = {"about": predictor.about}
    for name, side in (("token", predictor.token), ("first", predictor.first)):
        told[name] = {
            "coefficients": {engine: values.tolist() for engine, values in side.coefficients.items()},
            "kernel": asdict(side.residual.kernel),
            "support": [list(asdict(row).values()) for row in side.residual.support],
        }
        arrays[f"{name} weights"] = side.residual.weights
        arrays[f"{name} certain"] = _lower(side.residual.certain)
    file = io.BytesIO()
    np.savez_compressed(file, told=np.array(json.dumps(told)), **arrays)
    return file.getvalue()


def unpacked(blob: bytes) -> Predictor:
    arrays = np.load(io.BytesIO(blob))
    told = json.loads(str(arrays["told"]))
    token, first = (_side(told[n], arrays[f"{n} weights"], arrays[f"{n} certain"]) for n in ("token", "first"))
    return Predictor(token, first, told["about"])


def _side(told: Mapping[str, Any], weights: Floats, certain: NDArray[np.float32]) -> Side:
    kernel = told["kernel"]
    made = Kernel(tuple(kernel["near"]), tuple(kernel["same"]), tuple(kernel["lengths"]), kernel["noise"])
    support = tuple(_row(*row) for row in told["support"])
    coefficients = {engine: np.array(values) for engine, values in told["coefficients"].items()}
    return Side(coefficients, Residual(made, support, weights, _symmetric(certain, len(support))))


def _lower(matrix: Floats) -> NDArray[np.float32]:
    """Of a symmetric matrix, for a file of half the size."""
    return matrix[np.tril_indices(len(matrix))].astype(np.float32)


def _symmetric(lower: NDArray[np.float32], size: int) -> Floats:
    found = np.zeros((size, size))
    found[np.tril_indices(size)] = lower
    return found + np.tril(found, -1).T


def _row(engine: str, model: str, machine: str, precision: str, version: str, spread: str, place: list[float]) -> Row:
    return Row(engine, model, machine, precision, version, spread, tuple(place))


@cache
def shipped_predictor() -> Predictor:
    return unpacked((resources.files("pennyweight.plan") / FITTED).read_bytes())
