"""What the prices leave: a Gaussian process on the logarithm of measured over priced seconds (Rasmussen & Williams
2006, chapters 2 and 8). Rows that share an engine, a model, a machine type, a precision, a placement are alike, the
more so the nearer their loads; far from all rows the correction goes to nothing, and the interval grows to what the
prices miss there.

It is kept as a few support points (the projected process), so that no measured row is shipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
GROUPS = (  # the fields of a row that a component asks to be equal
    ("engine",),
    ("model", "engine"),
    ("machine", "engine"),
    ("model",),
    ("model", "machine", "engine", "precision"),
    ("model", "machine", "engine", "precision", "version"),
    ("model", "machine", "engine", "precision", "version", "spread"),
)
ROBUST_ROUNDS, OUTLIER = 3, 2.0  # standard deviations, from which a row's weight falls
JITTER = 1e-8


@dataclass(frozen=True)
class Row:
    """`place` are logarithms of the load and its spread (prediction.row_of)."""

    engine: str
    model: str
    machine: str
    precision: str
    version: str
    spread: str
    place: tuple[float, ...]


@dataclass(frozen=True)
class Kernel:
    """Standard deviations of each component: `near` of what changes with the load, `same` of what is constant in it;
    `lengths` of the load's logarithms; `noise` of one measurement."""

    near: tuple[float, ...]
    same: tuple[float, ...]
    lengths: tuple[float, ...]
    noise: float

    def between(self, left: Sequence[Row], right: Sequence[Row]) -> Floats:
        """Covariances, (len(left), len(right))."""
        lengths = np.array(self.lengths)
        a, b = (np.array([row.place for row in rows]).reshape(len(rows), -1) / lengths for rows in (left, right))
        squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None, :] - 2 * a @ b.T
        distance = np.sqrt(3 * np.maximum(squares, 0))
        shape = (1 + distance) * np.exp(-distance)  # Matérn 3/2
        found = np.zeros_like(shape)
        codes = _codes([*left, *right])
        for each, near, same in zip(codes, self.near, self.same, strict=True):
            equal = each[: len(left), None] == each[None, len(left) :]
            found += equal * (near**2 * shape + same**2)
        return np.asarray(found, np.float64)

    @property
    def prior(self) -> float:
        """Variance far from all rows."""
        return sum(value**2 for value in (*self.near, *self.same))


@dataclass(frozen=True)
class Residual:
    """The posterior at its `support`: `weights` (m,), `certain` (m, m), what the rows have taken off the variance."""

    kernel: Kernel
    support: tuple[Row, ...]
    weights: Floats
    certain: Floats

    def given(self, rows: Sequence[Row], known: Sequence[Row], values: Floats) -> tuple[Floats, Floats]:
        """Means and standard deviations of new measurements at `rows`, once `known` ones have given these values."""
        across = self.kernel.between(rows, self.support)
        mean, noise = across @ self.weights, self.kernel.noise**2
        variance = self.kernel.prior - ((across @ self.certain) * across).sum(1)
        if known:
            others = self.kernel.between(known, self.support)
            inner = self.kernel.between(known, known) - others @ self.certain @ others.T + noise * np.eye(len(known))
            both = self.kernel.between(known, rows) - others @ self.certain @ across.T
            gain = np.linalg.solve(inner, both)
            mean = mean + gain.T @ (values - others @ self.weights)
            variance = variance - (gain * both).sum(0)
        return mean, np.sqrt(np.maximum(variance, 0) + noise)


def fit_residual(kernel: Kernel, rows: Sequence[Row], values: Floats, *, support: int) -> Residual:
    """values: (n,) logarithms. Rows far from what the others say (misreported ones, say) lose weight."""
    points = _spread_out(kernel, rows, support)
    inner = kernel.between(points, points) + JITTER * np.eye(len(points))
    across = kernel.between(points, rows)
    factor = np.linalg.cholesky(inner)
    half = np.linalg.solve(factor, across)
    left = np.maximum(kernel.prior - (half**2).sum(0), 0)  # of each row, beyond its support
    scale = np.ones(len(rows))
    for _ in range(ROBUST_ROUNDS + 1):
        noise = kernel.noise**2 * scale + left
        precision = inner + (across / noise) @ across.T
        weights = np.linalg.solve(precision, across @ (values / noise))
        scale = np.maximum(np.abs(values - across.T @ weights) / np.sqrt(noise) / OUTLIER, 1.0) ** 2
    certain = np.asarray(np.linalg.inv(inner) - np.linalg.inv(precision), np.float64)
    return Residual(kernel, tuple(points), weights, certain)


def _spread_out(kernel: Kernel, rows: Sequence[Row], count: int) -> list[Row]:
    """Rows that leave the least variance to all others: the pivots of an incomplete Cholesky decomposition."""
    count = min(count, len(rows))
    variance = np.full(len(rows), kernel.prior)
    columns = np.zeros((count, len(rows)))
    chosen = list[int]()
    for number in range(count):
        place = int(variance.argmax())
        if variance[place] < kernel.noise**2 / 100:
            break
        chosen.append(place)
        column = kernel.between([rows[place]], rows)[0] - columns[:number, place] @ columns[:number]
        columns[number] = column / np.sqrt(variance[place])
        variance = np.maximum(variance - columns[number] ** 2, 0)
        variance[place] = 0
    return [rows[place] for place in chosen]


def _codes(rows: Sequence[Row]) -> list[NDArray[np.intp]]:
    """Of each component, equal numbers for rows that it takes for alike."""
    found = []
    for fields in GROUPS:
        seen = dict[tuple[str, ...], int]()
        names = (tuple(getattr(row, field) for field in fields) for row in rows)
        found.append(np.array([seen.setdefault(name, len(seen)) for name in names], np.intp))
    return found
