"""What flows through the pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
    """A network's figures for the report.

    Attributes:
        metric: the recipe's metric on the test split.
        validation_metric: the same on the validation split.
        parameters, macs: the numbers of parameters, and of multiply-accumulates of one sample;
            None where the network is a file or a table.
    """

    metric: float
    validation_metric: float
    parameters: int | None
    macs: int | None


@dataclass(frozen=True)
class Work:
    """What flows from stage to stage; a stage returns it with its own part replaced.

    Attributes:
        base: the recipe's folder, which references are relative to.
        data_key: a digest of the data and of the code that loads it.
        student: as the last stage that changed it left it, in eval mode.
        teachers: each with its weight: a `Network`, or a file or table of outputs.
        another_student: the student untaught, with other random weights for each number.
        rows: one candidate of one target each.
    """

    recipe: Recipe
    base: Path
    task: Task
    goals: tuple[Goal, ...]
    data: Data
    data_key: str
    student: Network
    teachers: tuple[tuple[Any, float], ...] = ()
    another_student: Callable[[int], Network] | None = None
    teacher_score: Scored | None = None
    student_score: Scored | None = None
    calibration: tuple[Inputs, ...] = ()
    rows: tuple[Row, ...] = ()
    chosen: Mapping[str, Choice] = field(default_factory=dict)

    @property
    def teacher(self) -> Any:
        """The first teacher, by which the student and what ships are judged; None without one."""
        return self.teachers[0][0] if self.teachers else None

    def samples(self, split: str) -> Samples:
        """The data's `split`, its inputs under the student's names."""
        names = tuple(self.student.signature.input_names)
        return Samples(getattr(self.data, split), names, labelled=split != "unlabeled")

    def goal(self, row: Row) -> Goal:
        """The goal that `row` is a candidate of."""
        return next(goal for goal in self.goals if goal.target.name == row.target)
