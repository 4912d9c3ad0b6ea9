"""The rows of the report: how each candidate ended, and what was measured of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from typing import Any, Literal

from edgekd.artifact import Artifact
from edgekd.measurement import LEAST_GAIN as LEAST_GAIN
from edgekd.measurement import LEAST_OF_P99 as LEAST_OF_P99
from edgekd.measurement import Measurement as Measurement
from edgekd.measurement import Ratio as Ratio
from edgekd.notebook import card
from edgekd.target import Evidence

Which = Literal["student", "unpruned", "quantized"]
"""A network of a run: the student, the student before it was pruned, or the student trained to be
rounded to int8."""


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
        simulation_db: the same ratio against the simulation that its network was trained in; None
            where it was trained in none.
        task_agreement: the task's figure of how far the outputs are the network's, 1 where all are;
            None where the outputs are not the task's.
        agreed: what that is a figure of, in words.
        slices: by slice of the test split, the metric there; None where it is not defined.
        smaller_is_better: whether the metric is an error.
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
    simulation_db: float | None = None
    task_agreement: float | None = None
    agreed: str = "same class"
    slices: Mapping[str, float | None] = field(default_factory=dict)
    smaller_is_better: bool = False

    @property
    def validation_merit(self) -> float:
        """What candidates are chosen by: the metric on validation, the larger the better."""
        value = self.validation_metric or 0.0
        return -value if self.smaller_is_better else value

    @property
    def sqnr_told(self) -> str:
        """The SQNR in dB, and of what was trained to be rounded, that against its simulation."""
        told = f"{self.sqnr_db:.1f}"
        if self.simulation_db is None:
            return told
        return f"{told} ({self.simulation_db:.1f} of its simulation)"

    def _repr_html_(self) -> str:
        facts = ("sample_count", "max_abs_error", "sqnr_db", "task_agreement", "metric",
                 "evidence", "detail")  # fmt: skip
        return card(self.outcome.value, {name: getattr(self, name) for name in facts})

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
class Row:
    """One candidate of one target: what became of it.

    Attributes:
        network: which network it is of: the student as it is at last; as it was before it was
            pruned, which goes on where pruning does not pay; or as it was trained to be rounded.
        outcome: None while the run has not come to a verdict.
        detail: a sentence on why it ended so, or why it was not chosen.
        notes: sentences on what of the file its target does not run well.
        instructions: of one inference on one thread of an emulated core; None where none counted.
        core_instructions: the same by core, where no board of the target's kind was at hand.
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
    core_instructions: Mapping[str, int] = field(default_factory=dict)
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
    def in_float(self) -> str:
        """The name of the candidate in float32 that it is compared with: that of its network, or of
        the one that was trained to be rounded."""
        return self.first_of(
            scheme="fp32", network="student" if self.network == "quantized" else None
        )

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
            "quantized_weights_frac": self.artifact.lineage.get("quantized_weights_frac"),
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
            "core_instructions": dict(self.core_instructions),
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
