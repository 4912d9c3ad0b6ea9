"""The table of a recipe that says what accuracy may be lost, and by which figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationInfo
from pydantic_core import PydanticCustomError

from edgekd.errors import listed, nearest
from edgekd.recipe.table import Frac, Part, unknown_name


def _some_metric(value: str, info: ValidationInfo) -> str:
    """Refuses what is no metric of any task: that of which task is known when all else is."""
    tasks = info.context.tasks if info.context else {}
    known = sorted({name for metrics in tasks.values() for name in metrics})
    if known and value not in known:
        raise unknown_name(value, known)
    return value


class SliceGate(Part):
    """What the metric may lose on each slice of the test split."""

    max_drop: Annotated[float, Field(ge=0, description="against the teacher there, absolute")]
    min_count: Annotated[
        int, Field(ge=1, description="a slice of fewer samples is reported, and not judged")
    ] = 30


class Accept(Part):
    """What accuracy may be lost."""

    metric: Annotated[
        str,
        AfterValidator(_some_metric),
        Field(description="of the task; its first where none is named"),
    ] = ""
    max_drop: Annotated[
        float,
        Field(ge=0, description="of the student, and what ships, against the teacher, absolute"),
    ] = 0.01
    min_agreement: Annotated[
        Frac, Field(description="the task's, of a file with the torch student: 1 where all agree")
    ] = 0.99
    slices: Annotated[
        SliceGate | None, Field(description="what the worst of the data's slices may lose")
    ] = None

    def of_task(self, task: str, metrics: Mapping[str, bool]) -> Accept:
        """The same with a metric of the task, its first where none is named.

        Args:
            metrics: by name, whether each is a share from 0 to 1; empty where they are not known.

        Raises:
            PydanticCustomError: the metric is none of the task's, or loses more than all of it.
        """
        if not metrics:
            return self
        metric = self.metric or next(iter(metrics))
        if metric not in metrics:
            raise PydanticCustomError(
                "unknown_name",
                "of {task}: {allowed}",
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
                    "no_share",
                    "0 to 1, since {metric} is a share",
                    {"key": key, "metric": metric},
                )
        return self.model_copy(update={"metric": metric})
