"""What flows through the pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgekd.data import Data, Inputs, Samples
from edgekd.evidence import Choice, Row
from edgekd.network import Network
from edgekd.recipe import Recipe
from edgekd.target import Budget, Prefer, Target
from edgekd.task import Task


@dataclass(frozen=True)
class Goal:
    """A target and what must hold there."""

    target: Target
    budget: Budget
    prefer: Prefer
    required: bool


@dataclass(frozen=True)
class Scored:
    """A torch network's figures for the report.

    Attributes:
        metric: the recipe's metric on the test split.
        validation_metric: the same on the validation split.
        macs: multiply-accumulates of one sample.
    """

    metric: float
    validation_metric: float
    parameters: int
    macs: int


@dataclass(frozen=True)
class Work:
    """What flows from stage to stage; a stage returns it with its own part replaced.

    Attributes:
        base: the recipe's folder, which references are relative to.
        data_key: a digest of the data and of the code that loads it.
        student: as the last stage that changed it left it, in eval mode.
        rows: one candidate of one target each.
    """

    recipe: Recipe
    base: Path
    task: Task
    goals: tuple[Goal, ...]
    data: Data
    data_key: str
    student: Network
    teacher: Network | None = None
    teacher_score: Scored | None = None
    student_score: Scored | None = None
    calibration: tuple[Inputs, ...] = ()
    rows: tuple[Row, ...] = ()
    chosen: Mapping[str, Choice] = field(default_factory=dict)

    def samples(self, split: str) -> Samples:
        """The data's `split`, its inputs under the student's names."""
        names = tuple(self.student.signature.input_names)
        return Samples(getattr(self.data, split), names, labelled=split != "unlabeled")

    def goal(self, row: Row) -> Goal:
        """The goal that `row` is a candidate of."""
        return next(goal for goal in self.goals if goal.target.name == row.target)
