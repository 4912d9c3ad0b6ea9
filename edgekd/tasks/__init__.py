"""What a task means by "good": its loss against labels, its metrics and its agreement."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from torch import Tensor

from edgekd.errors import Fault, RecipeError, unknown
from edgekd.system.import_string import is_reference, resolve_value
from edgekd.tasks import classification, embedding, regression
from edgekd.tasks.classification import accuracy, balanced_accuracy, cross_entropy
from edgekd.tasks.dense_classification import SEGMENTATION, TOKEN_CLASSIFICATION
from edgekd.tasks.task import IGNORED, Metric, Task

TASKS: dict[str, Task] = {
    "classification": classification.TASK,
    "regression": regression.TASK,
    "embedding": embedding.TASK,
    "segmentation": SEGMENTATION,
    "token-classification": TOKEN_CLASSIFICATION,
}


def find_task(name: str, *, base: Path | None = None, at: str = "task") -> Task:
    """The task `name`: of `TASKS`, of the entry points `edgekd.tasks`, or of "file.py:TASK".

    Args:
        base: the folder a file is relative to; the current one if None.
        at: the recipe's key, for messages.

    Raises:
        RecipeError: there is no such task, or it cannot be imported or is no `Task`.
    """
    if name in TASKS:
        return TASKS[name]
    if is_reference(name):
        task: Task = resolve_value(name, "Task", _is_task, base=base or Path(), at=at)
        return task
    entries = {entry.name: entry for entry in entry_points(group="edgekd.tasks")}
    if name not in entries:
        raise RecipeError(unknown("task", name, [*TASKS, *entries], at))
    found = _load(entries[name], at)
    if not isinstance(found, Task):
        raise RecipeError(_wrong_value(entries[name], found, "an edgekd.Task", at))
    return replace(found, name=name)


def task_names() -> list[str]:
    """The names of all tasks, installed packages' included."""
    return [*TASKS, *(entry.name for entry in entry_points(group="edgekd.tasks"))]


def find_metric(
    task: Task, name: str, *, base: Path | None = None, at: str = "accept.metric"
) -> Metric:
    """The metric `name`: of the task, of the entry points `edgekd.metrics`, or "file.py:callable".

    A function of outputs and targets is a metric of which larger values are better.

    Args:
        base: the folder a file is relative to; the current one if None.
        at: the recipe's key, for messages.

    Raises:
        RecipeError: there is no such metric, or it cannot be imported or called.
    """
    if name in task.metrics:
        return task.metrics[name]
    if is_reference(name):
        value = resolve_value(name, "callable", callable, base=base or Path(), at=at)
        return _as_metric(value, name, at)
    entries = {entry.name: entry for entry in entry_points(group="edgekd.metrics")}
    if name not in entries:
        raise RecipeError(unknown(f"{task.name} metric", name, [*task.metrics, *entries], at))
    found = _load(entries[name], at)
    if not callable(found):
        raise RecipeError(_wrong_value(entries[name], found, "a function or a Metric", at))
    return _as_metric(found, name, at)


def metric_names() -> list[str]:
    """The names of the metrics that installed packages add to every task."""
    return [entry.name for entry in entry_points(group="edgekd.metrics")]


def with_metric(
    task: Task, name: str, *, base: Path | None = None, at: str = "accept.metric"
) -> Task:
    """`task` with the metric `name` among its own; see `find_metric`."""
    metric = find_metric(task, name, base=base, at=at)
    return replace(task, metrics={**task.metrics, name: metric})


def _is_task(value: Any) -> bool:
    return isinstance(value, Task)


def _as_metric(found: Any, name: str, at: str) -> Metric:
    """`found` as a metric whose failure is reported as that of its own code."""
    metric = found if isinstance(found, Metric) else Metric(found, share=False, takes=None)

    def measure(outputs: Tensor, targets: Tensor) -> float:
        try:
            return float(metric.measure(outputs, targets))
        except Exception as error:
            raise RecipeError(
                Fault(
                    what=f"The metric {name!r} failed.",
                    at=at,
                    got=f"{type(error).__name__}: {error}",
                    expected="a number, from a function of outputs and targets",
                    fix=f"correct {name}; it got outputs {tuple(outputs.shape)} and targets "
                    f"{tuple(targets.shape)}",
                )
            ) from error

    return replace(metric, measure=measure)


def _load(entry: EntryPoint, at: str) -> Any:
    try:
        return entry.load()
    except Exception as error:
        raise RecipeError(
            Fault(
                what=f"The entry point {entry.name!r} of {entry.group} cannot be loaded.",
                at=at,
                got=f"{type(error).__name__}: {error}",
                expected=f"{entry.value} can be imported",
                fix="repair or uninstall the package that declares it",
            )
        ) from error


def _wrong_value(entry: EntryPoint, value: Any, expected: str, at: str) -> Fault:
    return Fault(
        what=f"The entry point {entry.name!r} of {entry.group} has the wrong type.",
        at=at,
        got=f"{entry.value}, of type {type(value).__name__}",
        expected=expected,
        fix="correct the package that declares it",
    )


__all__ = [
    "IGNORED",
    "TASKS",
    "Metric",
    "Task",
    "accuracy",
    "balanced_accuracy",
    "cross_entropy",
    "find_metric",
    "find_task",
    "metric_names",
    "task_names",
    "with_metric",
]
