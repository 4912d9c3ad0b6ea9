"""The `[accept]` table of a recipe: the loss of accuracy that a candidate may show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationInfo
from pydantic_core import PydanticCustomError

from edgekd.errors import listed, nearest
from edgekd.recipe.table import Frac, Table, unknown_name


def _some_metric(value: str, info: ValidationInfo) -> str:
    """Refuses a name that no task has as a metric; `of_task` then checks the recipe's task."""
    tasks = info.context.tasks if info.context else {}
    known = sorted({name for metrics in tasks.values() for name in metrics})
    if known and value not in known:
        raise unknown_name(value, known)
    return value


class SliceCriterion(Table):
    """The acceptance criterion for the slices of the test split."""

    max_drop: Annotated[
        float,
        Field(
            ge=0,
            description="Largest drop of the metric against the teacher on any slice, absolute.",
        ),
    ]
    min_count: Annotated[
        int, Field(ge=1, description="Slices with fewer samples are reported but not judged.")
    ] = 30


class Accept(Table):
    """The acceptance criteria for accuracy."""

    metric: Annotated[
        str,
        AfterValidator(_some_metric),
        Field(
            description="A metric of the task. An empty string selects the task's default metric."
        ),
    ] = ""
    max_drop: Annotated[
        float,
        Field(
            ge=0,
            description="Largest drop of the metric against the teacher, absolute; for the "
            "student and for every file.",
        ),
    ] = 0.01
    min_agreement: Annotated[
        Frac,
        Field(
            description="Smallest agreement of a file with the torch student, as the task "
            "defines it; 1 is full agreement."
        ),
    ] = 0.99
    slices: Annotated[
        SliceCriterion | None,
        Field(
            description="Criterion for the slices of the data; without it, slices are only "
            "reported."
        ),
    ] = None

    def of_task(self, task: str, metrics: Mapping[str, bool]) -> Accept:
        """The same criteria with a metric of the task: the given one, or the task's default.

        Args:
            metrics: for each metric of the task, whether it is a fraction from 0 to 1; empty if
                the metrics are unknown.

        Raises:
            PydanticCustomError: the task has no such metric, or a drop exceeds the metric's range.
        """
        if not metrics:
            return self
        metric = self.metric or next(iter(metrics))
        if metric not in metrics:
            raise PydanticCustomError(
                "unknown_name",
                "a metric of the task {task}: {allowed}",
                {
                    "key": "accept.metric",
                    "task": task,
                    "allowed": listed(metrics),
                    "nearest": nearest(metric, list(metrics)),
                },
            )
        drops = {"accept.max_drop": self.max_drop}
        if self.slices is not None:
            drops["accept.slices.max_drop"] = self.slices.max_drop
        for key, drop in drops.items():
            if metrics[metric] and drop > 1:
                raise PydanticCustomError(
                    "no_fraction",
                    "a value from 0 to 1, because {metric} is a fraction",
                    {"key": key, "metric": metric},
                )
        return self.model_copy(update={"metric": metric})
