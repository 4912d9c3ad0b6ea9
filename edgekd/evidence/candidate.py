"""The rows of the report: how each candidate ended, and what was measured of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from edgekd.artifacts.artifact import Artifact
from edgekd.artifacts.target import Evidence
from edgekd.evidence.agreement import Agreement
from edgekd.evidence.measurement import Measurement
from edgekd.evidence.outcome import Outcome

NetworkRole = Literal["student", "unpruned", "qat"]
"""A network of a run: the student, the student before it was pruned, or the student trained to be
rounded to int8."""


@dataclass(frozen=True)
class Candidate:
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
    network: NetworkRole = "student"
    notes: tuple[str, ...] = ()
    instructions: int | None = None
    core_instructions: Mapping[str, int] = field(default_factory=dict)
    method: str | None = None
    keep: tuple[str, ...] = ()
    beside: bool = False

    @property
    def name(self) -> str:
        """Its name among the candidates of its target: the scheme, "unpruned-" before it, and after
        it the method where another was tried first."""
        name = f"{self.scheme}.{self.method}" if self.beside else self.scheme
        if self.beside and self.keep:
            name += f".keep-{len(self.keep)}"
        return name if self.network == "student" else f"{self.network}-{name}"

    def first_of(self, *, scheme: str | None = None, network: NetworkRole | None = None) -> str:
        """The name of the candidate that was tried first of its scheme, or of another scheme or
        network, where there is one."""
        first = replace(self, beside=False, keep=(), scheme=scheme or self.scheme)
        return replace(first, network=network or self.network).name

    @property
    def in_float(self) -> str:
        """The name of the candidate in float32 that it is compared with: that of its network, or of
        the one that was trained to be rounded."""
        return self.first_of(scheme="fp32", network="student" if self.network == "qat" else None)

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
            "candidate": self.name,
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
    network: NetworkRole = "student"
    candidate: str | None = None

    @classmethod
    def of(cls, candidate: Candidate, why: str) -> Choice:
        """The choice of `candidate`."""
        return cls(candidate.scheme, why, candidate.network, candidate.name)

    def ships(self, candidate: Candidate) -> bool:
        """Whether it is `candidate`, of this choice's target, that ships."""
        return self.candidate == candidate.name
