"""From single samples to the figures of a table."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from benchmarks.works import BenchmarkError, Side

Sample = tuple[float, float]
"""When an operation ended and how long it took, both in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One side of one round.

    Attributes:
        operations: finished within the counted seconds.
        throughput: of these, per second.
        answered: finished in all, run-up and run-out included.
        errors: what was answered instead of what was expected → how often.
        cpu_us: process → microseconds of CPU per operation; empty where the system does not report it.
        others_cpu: share of the machine's CPU time that went to processes that are no part of the measurement.
    """

    operations: int
    throughput: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    answered: int
    errors: Mapping[str, int] = field(default_factory=dict)
    cpu_us: Mapping[str, float] = field(default_factory=dict)
    others_cpu: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it for a JSON file."""
        return asdict(self)


def measure(
    samples: Sequence[Sample],
    *,
    ramp: float,
    seconds: float,
    errors: Mapping[str, int],
    cpu_seconds: Mapping[str, float],
    others_cpu: float | None,
) -> Measurement:
    """Count what ended in the window of `seconds` that opens `ramp` seconds after the first operation began.

    The warm-up is left out on both sides: it includes the preparing of statements and the filling of caches.

    Raises:
        BenchmarkError: nothing ended in the window.
    """
    if not samples:
        raise BenchmarkError(f"no operation succeeded; errors: {dict(errors)}")
    opens = min(ended - took for ended, took in samples) + ramp
    counted = sorted(took for ended, took in samples if opens <= ended < opens + seconds)
    if not counted:
        raise BenchmarkError(f"nothing finished within the {seconds} s that count; errors: {dict(errors)}")
    return Measurement(
        operations=len(counted),
        throughput=len(counted) / seconds,
        p50_ms=percentile(counted, 50) * 1000,
        p95_ms=percentile(counted, 95) * 1000,
        p99_ms=percentile(counted, 99) * 1000,
        answered=len(samples),
        errors=dict(errors),
        cpu_us={part: spent / len(samples) * 1e6 for part, spent in cpu_seconds.items()},
        others_cpu=others_cpu,
    )


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return the smallest value that `percent` of the values do not exceed (nearest rank)."""
    return ordered[max(math.ceil(len(ordered) * percent / 100) - 1, 0)]


@dataclass(frozen=True, slots=True)
class Comparison:
    """All sides of one kind of work, round by round: the first of one was measured beside the first of the others."""

    sides: Mapping[Side, Sequence[Measurement]]

    def ratios(self, figure: str, to: Side) -> list[float]:
        """Return this build ÷ another side of a figure, one per round."""
        pairs = zip(self.sides[to], self.sides[Side.NEW], strict=True)
        return [getattr(new, figure) / getattr(other, figure) for other, new in pairs]

    def ratio(self, figure: str, to: Side) -> float:
        """Return the median of the rounds' ratios: what disturbed a round disturbed all of its sides."""
        return median(self.ratios(figure, to))

    def measurements(self) -> list[Measurement]:
        """Return those of all sides."""
        return [measurement for side in self.sides.values() for measurement in side]

    def errors(self) -> dict[str, int]:
        """Return all errors, each with the side that had it."""
        found: dict[str, int] = {}
        for side, measurements in self.sides.items():
            for measurement in measurements:
                for what, count in measurement.errors.items():
                    found[f"{side}: {what}"] = found.get(f"{side}: {what}", 0) + count
        return found


def middle(measurements: Sequence[Measurement], figure: str) -> float:
    """Return the median of a figure over the rounds."""
    return float(median(getattr(measurement, figure) for measurement in measurements))


def middle_cpu(measurements: Sequence[Measurement], part: str) -> float | None:
    """Return the median CPU time of a process per operation, in microseconds; None when it is not known."""
    known = [measurement.cpu_us[part] for measurement in measurements if part in measurement.cpu_us]
    return float(median(known)) if known else None
