"""The measured agreement of an artifact with its network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from edgekd.artifacts.target import Evidence
from edgekd.evidence.outcome import Outcome
from edgekd.system.html import card


def with_disagreement(agreement: Agreement, why: str) -> Agreement:
    """`agreement` with the outcome `disagrees` and the reason `why`."""
    return replace(agreement, outcome=Outcome.DISAGREES, detail=why)


@dataclass(frozen=True)
class Agreement:
    """How well an artifact, run in its own runtime, reproduces its network.

    Attributes:
        sample_count: number of samples compared.
        max_abs_error: largest difference of an output value; None if a value is not finite.
        sqnr_db: signal-to-quantization-noise ratio, 10 log10(sum reference^2 / sum error^2) over
            all real-valued outputs; inf if all values are equal, -inf if one is not finite.
        top1_agreement_frac: share of samples with the same top-1 class, or for an integer first
            output, of equal values; None if the first output is not a vector of classes.
        metric: the task's metric on the test split; None without labels.
        validation_metric: the metric on the validation split, by which candidates are chosen.
        evidence: where the artifact ran.
        runtime: the runtime's name, version, and how it says that it computed.
        outcome: passed or disagrees.
        detail: a sentence with the reason for `disagrees`.
        worst: the indices of the samples that the artifact reproduces worst, the worst first.
        simulation_db: after QAT, the SQNR against the fake-quantized network; None otherwise.
        task_agreement: the task's agreement of the outputs with the network's, at most 1; None if
            the outputs are not of the task.
        agreed: what `task_agreement` measures, in words.
        slices: the metric on each slice of the test split; None where it is not defined.
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
        """The validation metric, negated if it is an error: larger is better."""
        value = self.validation_metric or 0.0
        return -value if self.smaller_is_better else value

    @property
    def sqnr_text(self) -> str:
        """The SQNR in dB; after QAT also the SQNR against the simulation."""
        sqnr = f"{self.sqnr_db:.1f}"
        if self.simulation_db is None:
            return sqnr
        return f"{sqnr} ({self.simulation_db:.1f} against its simulation)"

    def _repr_html_(self) -> str:
        facts = ("sample_count", "max_abs_error", "sqnr_db", "task_agreement", "metric",
                 "evidence", "detail")  # fmt: skip
        return card(self.outcome.value, {name: getattr(self, name) for name in facts})

    def to_json(self) -> dict[str, Any]:
        """A JSON object; an infinite `sqnr_db` is null, its sign follows from the error."""
        finite = self.sqnr_db if math.isfinite(self.sqnr_db) else None
        return {
            **asdict(self),
            "sqnr_db": finite,
            "outcome": self.outcome.value,
            "worst": list(self.worst),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Agreement:
        """The agreement in a document from `to_json`."""
        sqnr_db = document["sqnr_db"]
        if sqnr_db is None:
            sqnr_db = math.inf if document["max_abs_error"] == 0 else -math.inf
        changed = {"sqnr_db": sqnr_db, "outcome": Outcome(document["outcome"])}
        return cls(**{**document, **changed, "worst": tuple(document.get("worst", ()))})
