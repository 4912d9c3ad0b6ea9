"""Names a recipe may use: those of edgekd, of installed packages, and of the recipe's own files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

import torch

from edgekd.artifacts.target import target_names
from edgekd.bundles import bundle_names
from edgekd.calibration.calibration_set import calibration_names
from edgekd.errors import Fault, RecipeError
from edgekd.losses import find_loss, loss_names, options_of
from edgekd.pipeline.stages import STAGES
from edgekd.recipe.schema import Recipe
from edgekd.recipe.table import Known
from edgekd.system.files import digest, path_digest
from edgekd.system.import_string import is_reference, reference_digest, resolve
from edgekd.tasks import TASKS, Task, find_metric, find_task, metric_names, task_names, with_metric

T = TypeVar("T")


def known_names(base: Path | None = None) -> Known:
    """The names a recipe may use, of edgekd's tables and of installed packages.

    An entry point that cannot be loaded is reported only when a recipe names it.

    Args:
        base: the folder that the recipe's references are relative to; the current one if None.
    """
    tasks = {name: _loaded(partial(find_task, name)) for name in task_names()}
    return Known(
        stages=list(STAGES),
        losses={
            "hard": {
                option: needed
                for task in tasks.values()
                if task is not None
                for option, needed in options_of(task.loss).items()
            },
            **{name: _loaded(partial(_loss_options, name)) for name in loss_names()},
        },
        tasks={name: _metric_shares(task) if task else {} for name, task in tasks.items()},
        targets=target_names(),
        calibrations=calibration_names(),
        bundles=bundle_names(),
        folder=base or Path(),
        complete=with_references,
    )


def with_references(
    known: Known, document: Mapping[str, Any], source: str
) -> tuple[Known, list[Fault]]:
    """`known` with the tasks, metrics and losses that `document` names as "file.py:NAME".

    Args:
        source: the document's name in messages.

    Returns:
        The names, and the faults of the references that cannot be resolved.
    """
    faults: list[Fault] = []

    def attempt(work: Callable[[], T]) -> T | None:
        try:
            return work()
        except RecipeError as error:
            faults.extend(error.faults)
            return None

    for kind, key, name in _references(document):
        base, at = known.folder, f"{source}:{key}"
        if kind == "task":
            task = attempt(partial(find_task, name, base=base, at=at))
            # The metrics of a task that cannot be imported are unknown: none is refused.
            tasks = {**known.tasks, name: _metric_shares(task)} if task else {name: {}}
            hard = {**(known.losses.get("hard") or {}), **(options_of(task.loss) if task else {})}
            known = replace(known, tasks=tasks, losses={**known.losses, "hard": hard})
        elif kind == "metric":
            metric = attempt(partial(find_metric, TASKS["classification"], name, base=base, at=at))
            share = metric is not None and metric.share
            tasks = {own: {**metrics, name: share} for own, metrics in known.tasks.items()}
            known = replace(known, tasks=tasks)
        else:
            function = attempt(partial(resolve, name, base=base, at=at))
            options = options_of(function) if function else None
            known = replace(known, losses={**known.losses, name: options})
    return known, faults


def _references(document: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """The kind, key and name of the tasks, metrics and losses that are references to Python."""
    named = [("task", "task", document.get("task"))]
    if isinstance(accept := document.get("accept"), Mapping):
        named.append(("metric", "accept.metric", accept.get("metric")))
    distill = document.get("distill")
    losses = distill.get("losses") if isinstance(distill, Mapping) else None
    for i, loss in enumerate(losses if isinstance(losses, list) else []):
        if isinstance(loss, Mapping):
            named.append(("loss", f"distill.losses[{i}].method", loss.get("method")))
    for kind, key, name in named:
        if isinstance(name, str) and is_reference(name):
            yield kind, key, name


def task_of(recipe: Recipe, base: Path) -> Task:
    """The recipe's task, with the recipe's metric among its own.

    Raises:
        RecipeError: the task or the metric cannot be imported.
    """
    return with_metric(find_task(recipe.task, base=base), recipe.accept.metric, base=base)


def try_metric(recipe: Recipe, base: Path) -> None:
    """Tries a metric that is not part of edgekd on two samples, so that it fails before any work.

    Two samples may be too few for a figure: only errors that no data can cause are reported.

    Raises:
        RecipeError: the metric cannot be called, or does not return a number.
    """
    task, name = find_task(recipe.task, base=base), recipe.accept.metric
    if name in task.metrics:
        return
    shape, labels = task.trial
    try:
        find_metric(task, name, base=base)(torch.zeros(tuple(shape)), labels)
    except RecipeError as error:
        if isinstance(error.__cause__, TypeError | NameError | AttributeError | ImportError):
            raise


def extension_digests(recipe: Recipe, base: Path) -> dict[str, str]:
    """By name, the digest of the code of each task, metric and loss that is not part of edgekd.

    Results in the store depend on it: a changed loss trains the student again.
    """
    named = [("tasks", recipe.task), ("metrics", recipe.accept.metric)]
    named += [("losses", loss.method) for loss in recipe.distill.losses] if recipe.distill else []
    found: dict[str, str] = {}
    for group, name in named:
        if is_reference(name):
            found[name] = reference_digest(name, base=base, at=group)
            continue
        for entry in entry_points(group=f"edgekd.{group}", name=name):
            version = entry.dist.version if entry.dist else None
            file = getattr(sys.modules.get(entry.module), "__file__", None)
            found[name] = digest([entry.value, version, path_digest(Path(file)) if file else None])
    return found


def _metric_shares(task: Task) -> dict[str, bool]:
    """The metrics of a task, installed packages' included, and whether each is in [0, 1]."""
    shares = {name: metric.share for name, metric in task.metrics.items()}
    for name in metric_names():
        metric = _loaded(partial(find_metric, task, name))
        shares.setdefault(name, metric is not None and metric.share)
    return shares


def _loss_options(name: str) -> dict[str, bool]:
    return options_of(find_loss(name))


def _loaded(work: Callable[[], T]) -> T | None:
    """What `work` returns, or None for an extension that cannot be loaded."""
    try:
        return work()
    except RecipeError:
        return None
