"""How well an artifact agrees with its network, as measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from edgekd.artifacts.target import Evidence
from edgekd.evidence.outcome import Outcome
from edgekd.system.html import card


def with_disagreement(agreement: Agreement, why: str) -> Agreement:
    """`agreement` with the verdict that it is none."""
    return replace(agreement, outcome=Outcome.DISAGREES, detail=why)


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
    def sqnr_text(self) -> str:
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
