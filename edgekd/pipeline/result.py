"""The result of a run, and the error that a failed run ends with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgekd.errors import ERRORS, EdgekdError, Fault
from edgekd.evidence.candidate import Candidate, Choice
from edgekd.evidence.routing import Routing
from edgekd.evidence.target_outcome import FIXES, NOT_JUDGED, farthest
from edgekd.pipeline.candidates.state import Pruning, Scored
from edgekd.system.html import grid, shown


@dataclass(frozen=True)
class RunResult:
    """The result of a run.

    Attributes:
        name: the name of the recipe.
        folder: the folder of the run.
        rows: every candidate of every target.
        chosen: by target, which candidate ships and why.
        passed: whether every required target has a candidate that passed.
        exit_code: see `edgekd.errors`; 0 if passed.
        metric: the name of the recipe's metric.
        smaller_is_better: whether the metric is an error.
        agreed: what the task's agreement measures, in words.
        teacher, student, unpruned: the figures of these networks; None without them.
        pruning: the result of pruning; None without it.
        reused: the results of earlier runs that were reused, as "stage/name".
        until: the last stage, if the run was to end before the last one.
        required: by target, whether the recipe requires it to pass.
        routes: by target, the model cascade: which answers the device keeps.
        seconds: by stage, its duration in this run, without what earlier runs computed.
        bundles: by kind, the folder for the app build.
    """

    name: str
    folder: Path
    rows: tuple[Candidate, ...]
    chosen: Mapping[str, Choice]
    passed: bool
    exit_code: int
    metric: str
    smaller_is_better: bool = False
    agreed: str = "same class"
    teacher: Scored | None = None
    student: Scored | None = None
    unpruned: Scored | None = None
    pruning: Pruning | None = None
    reused: tuple[str, ...] = ()
    until: str | None = None
    required: Mapping[str, bool] = field(default_factory=dict)
    routes: Mapping[str, Routing] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    bundles: Mapping[str, Path] = field(default_factory=dict)

    def _repr_html_(self) -> str:
        """A table of all candidates for a notebook."""
        head = ("target", "candidate", "outcome", self.metric, "bytes", "p90 ms", "", "why")
        return grid(
            f"{self.name}: {'passed' if self.passed else 'not passed'}", head, self._cells()
        )

    def _cells(self) -> Iterator[list[str]]:
        for candidate in self.rows:
            choice = self.chosen.get(candidate.target)
            ships = choice is not None and choice.ships(candidate)
            metric = candidate.agreement.metric if candidate.agreement else None
            yield [
                candidate.target,
                candidate.name,
                candidate.outcome.value if candidate.outcome else "",
                "" if metric is None else f"{metric:.4f}",
                shown(candidate.artifact.size_bytes) if candidate.artifact else "",
                f"{candidate.measurement.percentile_ms(0.9).value:.4f}"
                if candidate.measurement
                else "",
                "ships" if ships else "",
                choice.why if ships and choice else candidate.detail,
            ]

    def to_json(self) -> dict[str, Any]:
        """The document of `result.json`."""
        return {
            "name": self.name,
            "run": str(self.folder),
            "passed": self.passed,
            "exit_code": self.exit_code,
            "metric": self.metric,
            "smaller_is_better": self.smaller_is_better,
            "agreed": self.agreed,
            "teacher": asdict(self.teacher) if self.teacher else None,
            "student": asdict(self.student) if self.student else None,
            "unpruned": asdict(self.unpruned) if self.unpruned else None,
            "pruning": self.pruning.to_json() if self.pruning else None,
            "rows": [candidate.to_json() for candidate in self.rows],
            "chosen": {name: asdict(choice) for name, choice in self.chosen.items()},
            "reused": list(self.reused),
            "until": self.until,
            "routes": {name: route.to_json() for name, route in self.routes.items()},
            "seconds": {name: round(seconds, 3) for name, seconds in self.seconds.items()},
            "bundles": {kind: str(path) for kind, path in self.bundles.items()},
        }


def failure(result: RunResult) -> EdgekdError | None:
    """The error that a run ends with; None if it passed."""
    if result.exit_code == 0:
        return None
    faults = []
    for name, required in result.required.items():
        rows = [candidate for candidate in result.rows if candidate.target == name]
        end = farthest(rows)
        if end is None or end.outcome is None or not end.outcome.exit_code:
            continue
        if not required and end.outcome in NOT_JUDGED:
            continue
        faults.append(
            Fault(
                what=f"{name} has no candidate that can ship.",
                at=f"target {name}, {end.name}",
                got=f"{end.outcome.value}: {end.detail}",
                expected="a candidate that agrees with its network and keeps the budget",
                fix=FIXES[end.outcome],
            )
        )
    return ERRORS[result.exit_code](*faults)
