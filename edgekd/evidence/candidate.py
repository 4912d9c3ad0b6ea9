"""A candidate of a target: its artifact, its evidence and its outcome."""

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
"""The role of a network in a run: the final student, the student before pruning, or the student
after quantization-aware training for int8."""


@dataclass(frozen=True)
class Candidate:
    """One file that might ship for one target, and what is known about it.

    Attributes:
        network: the network that was exported. The unpruned one is used if pruning does not pay.
        outcome: None until the run has a verdict.
        detail: a sentence that says why the candidate ended so, or why it was not chosen.
        notes: sentences on operators that the target does not run well, and on other doubts.
        instructions: the instructions of one inference on one thread of an emulated core; None if
            they were not counted.
        core_instructions: the same by core, if no board of the target was available.
        method: the quantization method; None if the scheme has only one.
        excluded_operators: the names of the operators that stay in float.
        beside: whether another method of its scheme was tried before; the name then has the method.
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
    excluded_operators: tuple[str, ...] = ()
    beside: bool = False

    @property
    def name(self) -> str:
        """The name among the candidates of its target, such as "int8.percentile" or "qat-int8"."""
        name = f"{self.scheme}.{self.method}" if self.beside else self.scheme
        if self.beside and self.excluded_operators:
            name += f".keep-{len(self.excluded_operators)}"
        return name if self.network == "student" else f"{self.network}-{name}"

    def first_of(self, *, scheme: str | None = None, network: NetworkRole | None = None) -> str:
        """The name of the first candidate of its scheme, or of another scheme or network."""
        first = replace(self, beside=False, excluded_operators=(), scheme=scheme or self.scheme)
        return replace(first, network=network or self.network).name

    @property
    def in_float(self) -> str:
        """The name of the float32 candidate that it is compared with; for QAT, the student's."""
        return self.first_of(scheme="fp32", network="student" if self.network == "qat" else None)

    @property
    def open(self) -> bool:
        """Whether it has no outcome yet, so that the next stage works on it."""
        return self.outcome is None

    def to_json(self, *, samples: bool = False) -> dict[str, Any]:
        """The row of `result.json`; with every latency sample if `samples`."""
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
            "keep": list(self.excluded_operators),
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
    """Which candidate of a target ships, and why; `scheme` is None if no candidate does."""

    scheme: str | None
    why: str
    network: NetworkRole = "student"
    candidate: str | None = None

    @classmethod
    def of(cls, candidate: Candidate, why: str) -> Choice:
        """The choice that `candidate` ships."""
        return cls(candidate.scheme, why, candidate.network, candidate.name)

    def ships(self, candidate: Candidate) -> bool:
        """Whether `candidate`, of this choice's target, is the one that ships."""
        return self.candidate == candidate.name
