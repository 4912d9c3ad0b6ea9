"""The rows of the report: how each candidate ended, and what was measured of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from functools import cached_property
from statistics import median
from typing import Any, Literal

from edgekd.artifact import Artifact
from edgekd.percentile import Percentile, percentile
from edgekd.target import Evidence

STEADY_RATIO = 1.05
"""How far the median of the last third may lie from that of the first third of a steady
measurement. On an un-throttled but busy machine the figure stayed within 1.04."""


Which = Literal["student", "unpruned"]
"""A network of a run: the student, or the student before it was pruned."""


class Outcome(str, Enum):
    """How a candidate ended. Only `PASSED` may ship."""

    PASSED = "passed"
    OVER_BUDGET = "over-budget"
    DISAGREES = "disagrees"
    UNDECIDED = "undecided"
    FELL_BACK = "fell-back"
    CONVERT_FAILED = "convert-failed"
    LOAD_FAILED = "load-failed"
    RUN_FAILED = "run-failed"
    REFUSED = "refused"
    UNAVAILABLE = "unavailable"

    @property
    def exit_code(self) -> int:
        """The exit code of a run that this outcome fails."""
        return _EXIT_CODES[self]


# In the order of how far the candidate got, the farthest first.
_EXIT_CODES = {
    Outcome.PASSED: 0,
    Outcome.UNDECIDED: 9,
    Outcome.OVER_BUDGET: 8,
    Outcome.FELL_BACK: 7,
    Outcome.DISAGREES: 7,
    Outcome.RUN_FAILED: 5,
    Outcome.LOAD_FAILED: 5,
    Outcome.CONVERT_FAILED: 5,
    Outcome.UNAVAILABLE: 6,
    Outcome.REFUSED: 3,
}


@dataclass(frozen=True)
class Verdict:
    """How something ended, and why, in a sentence; empty where it passed."""

    outcome: Outcome
    detail: str


@dataclass(frozen=True)
class Agreement:
    """How well an artifact, run in its own runtime, reproduces its network.

    Attributes:
        sample_count: samples compared.
        max_abs_error: largest difference of any output value; None where one is not finite.
        sqnr_db: signal-to-quantization-noise ratio, 10 log10(sum reference^2 / sum error^2) over
            all outputs of real numbers; inf where all are equal, -inf where one is not finite.
        top1_agreement_frac: share of samples with the same largest class, or of a first output of
            whole numbers, of equal ones; None where it is no vector of classes.
        metric: the task's metric on the test split; None where no labels were given.
        validation_metric: the same on the validation split, by which candidates are chosen.
        evidence: where it ran.
        runtime: name, version, and what it says of how it computed.
        outcome: passed or disagrees.
        detail: why not, in a sentence.
        worst: the samples it reproduces worst, the worst first, by their number.
    """

    sample_count: int
    max_abs_error: float | None
    sqnr_db: float
    top1_agreement_frac: float | None
    metric: float | None
    validation_metric: float | None
    evidence: Evidence
    runtime: Mapping[str, Any]
    outcome: Outcome
    detail: str
    worst: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A JSON object; an infinite `sqnr_db` is null: `max_abs_error` is 0 where all is equal."""
        finite = self.sqnr_db if math.isfinite(self.sqnr_db) else None
        return {
            **asdict(self),
            "sqnr_db": finite,
            "outcome": self.outcome.value,
            "worst": list(self.worst),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Agreement:
        """The agreement that `to_json` wrote."""
        sqnr_db = document["sqnr_db"]
        if sqnr_db is None:
            sqnr_db = math.inf if document["max_abs_error"] == 0 else -math.inf
        changed = {"sqnr_db": sqnr_db, "outcome": Outcome(document["outcome"])}
        return cls(**{**document, **changed, "worst": tuple(document.get("worst", ()))})


@dataclass(frozen=True)
class Ratio:
    """The median time of a candidate over that of its parent, interleaved, with its interval."""

    parent: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Measurement:
    """How long an artifact takes on a device.

    Attributes:
        samples_ns: every steady-state inference, in the order taken, by process.
        warm_up_count: inferences before them, over all processes.
        init_ms: loading the artifact, in a process that holds it alone.
        first_ms: the first inference there.
        peak_memory_bytes: of a process that holds only this artifact, interpreter and runtime
            included; None where the system does not tell.
        threads: what the runtime computed with.
        evidence: where it ran.
        device: facts of the device before and after.
        ratio: against the artifact this one was derived from, on this device; None for that one.
        unpruned_ratio: against the artifact of the same scheme of the unpruned network; None where
            nothing was pruned, and for that one.
        confidence: of the percentiles' intervals.
    """

    samples_ns: tuple[tuple[int, ...], ...]
    warm_up_count: int
    init_ms: float
    first_ms: float
    peak_memory_bytes: int | None
    threads: int
    evidence: Evidence
    device: Mapping[str, Any] = field(default_factory=dict)
    ratio: Ratio | None = None
    unpruned_ratio: Ratio | None = None
    confidence: float = 0.95

    @cached_property
    def samples_ms(self) -> list[float]:
        """All samples of all processes, in the order taken, in ms."""
        return [sample / 1e6 for process in self.samples_ns for sample in process]

    def percentile_ms(self, frac: float, *, sustained: bool = False) -> Percentile:
        """The percentile `frac` (0-1) in ms; `sustained`: of the last third of each process."""
        if not sustained:
            return percentile(self.samples_ms, frac, confidence=self.confidence)
        late = [sample / 1e6 for process in self.samples_ns for sample in _last_third(process)]
        return percentile(late, frac, confidence=self.confidence)

    def process_percentiles_ms(self, frac: float, *, sustained: bool = False) -> list[float]:
        """The percentile `frac` (0-1) of each process alone, in ms."""
        parts = [_last_third(part) if sustained else part for part in self.samples_ns]
        return [percentile(part, frac).value / 1e6 for part in parts]

    @cached_property
    def drift(self) -> float:
        """Median of each process's last third over that of its first third; the farthest from 1."""
        ratios = [1.0]
        for process in self.samples_ns:
            third = len(process) // 3
            if third:
                ratios.append(median(process[-third:]) / median(process[:third]))
        return max(ratios, key=lambda ratio: abs(math.log(ratio)))

    @property
    def steady(self) -> bool:
        """Whether the time did not drift while it was measured."""
        return 1 / STEADY_RATIO <= self.drift <= STEADY_RATIO

    def to_json(self) -> dict[str, Any]:
        """A JSON object with the percentiles spelled out; `from_json` ignores those."""
        figures = {
            f"p{round(100 * f)}_ms": _interval(self.percentile_ms(f)) for f in (0.5, 0.9, 0.99)
        }
        return {
            **{key: value["value"] for key, value in figures.items()},
            "intervals": {key: [value["low"], value["high"]] for key, value in figures.items()},
            "sample_count": len(self.samples_ms),
            "process_count": len(self.samples_ns),
            "steady": self.steady,
            "drift": self.drift,
            "warm_up_count": self.warm_up_count,
            "init_ms": self.init_ms,
            "first_ms": self.first_ms,
            "peak_memory_bytes": self.peak_memory_bytes,
            "threads": self.threads,
            "evidence": self.evidence,
            "device": dict(self.device),
            "ratio": asdict(self.ratio) if self.ratio else None,
            "unpruned_ratio": asdict(self.unpruned_ratio) if self.unpruned_ratio else None,
            "confidence": self.confidence,
            "samples_ns": [list(process) for process in self.samples_ns],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Measurement:
        """The measurement that `to_json` wrote."""
        unpruned = document["unpruned_ratio"]
        return cls(
            samples_ns=tuple(tuple(process) for process in document["samples_ns"]),
            ratio=Ratio(**document["ratio"]) if document["ratio"] else None,
            unpruned_ratio=Ratio(**unpruned) if unpruned else None,
            **{
                key: document[key]
                for key in (
                    "warm_up_count",
                    "init_ms",
                    "first_ms",
                    "peak_memory_bytes",
                    "threads",
                    "evidence",
                    "device",
                    "confidence",
                )
            },
        )


def _last_third(samples: tuple[int, ...]) -> tuple[int, ...]:
    return samples[len(samples) - max(1, len(samples) // 3) :]


def _interval(figure: Percentile) -> dict[str, float | None]:
    return {
        "value": figure.value,
        "low": figure.low if math.isfinite(figure.low) else None,
        "high": figure.high if math.isfinite(figure.high) else None,
    }


@dataclass(frozen=True)
class Row:
    """One candidate of one target: what became of it.

    Attributes:
        network: which network it is of: the student as it is at last, or as it was before it was
            pruned, which goes on where pruning does not pay.
        outcome: None while the run has not come to a verdict.
        detail: a sentence on why it ended so, or why it was not chosen.
        notes: sentences on what of the file its target does not run well.
        instructions: of one inference on one thread of an emulated core; None where none counted.
        method: of quantizing; None where the scheme has no choice.
        keep: operators of the file that stay in float, by name.
        beside: whether its scheme was tried otherwise first; its name then tells the two apart.
    """

    target: str
    format: str
    scheme: str
    outcome: Outcome | None = None
    detail: str = ""
    artifact: Artifact | None = None
    agreement: Agreement | None = None
    measurement: Measurement | None = None
    evidence: Evidence | None = None
    network: Which = "student"
    notes: tuple[str, ...] = ()
    instructions: int | None = None
    method: str | None = None
    keep: tuple[str, ...] = ()
    beside: bool = False

    @property
    def candidate(self) -> str:
        """Its name among the candidates of its target: the scheme, "unpruned-" before it, and after
        it the method where another was tried first."""
        name = f"{self.scheme}.{self.method}" if self.beside else self.scheme
        if self.beside and self.keep:
            name += f".keep-{len(self.keep)}"
        return name if self.network == "student" else f"{self.network}-{name}"

    def first_of(self, *, scheme: str | None = None, network: Which | None = None) -> str:
        """The name of the candidate that was tried first of its scheme, or of another scheme or
        network, where there is one."""
        first = replace(self, beside=False, keep=(), scheme=scheme or self.scheme)
        return replace(first, network=network or self.network).candidate

    @property
    def open(self) -> bool:
        """Whether the next stage has anything to do with it."""
        return self.outcome is None

    def to_json(self, *, samples: bool = False) -> dict[str, Any]:
        """The row as `result.json` holds it; `samples`: with every single latency."""
        artifact = self.artifact and {
            "path": str(self.artifact.path),
            "sha256": self.artifact.sha256,
            "size_bytes": self.artifact.size_bytes,
            "zipped_bytes": self.artifact.zipped_bytes,
            "operators": sum(self.artifact.lineage.get("operators", {}).values()) or None,
            "transposes": self.artifact.lineage.get("transposes"),
        }
        measurement = self.measurement.to_json() if self.measurement else None
        if measurement and not samples:
            del measurement["samples_ns"]
        return {
            "target": self.target,
            "format": self.format,
            "scheme": self.scheme,
            "method": self.method,
            "keep": list(self.keep),
            "candidate": self.candidate,
            "network": self.network,
            "outcome": self.outcome.value if self.outcome else None,
            "detail": self.detail,
            "notes": list(self.notes),
            "evidence": self.evidence,
            "artifact": artifact,
            "agreement": self.agreement.to_json() if self.agreement else None,
            "measurement": measurement,
            "instructions": self.instructions,
        }


@dataclass(frozen=True)
class Choice:
    """Which candidate of a target ships, and why; `scheme` is None where none may."""

    scheme: str | None
    why: str
    network: Which = "student"
    candidate: str | None = None

    @classmethod
    def of(cls, row: Row, why: str) -> Choice:
        """The choice of `row`."""
        return cls(row.scheme, why, row.network, row.candidate)

    def ships(self, row: Row) -> bool:
        """Whether it is `row`, of this choice's target, that ships."""
        return self.candidate == row.candidate
