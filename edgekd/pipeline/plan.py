"""Checks a recipe before any work, and plans its stages and candidates."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from edgekd.artifacts.target import load_target
from edgekd.calibration.calibration_set import load_calibration
from edgekd.conversion.options import check_exportable
from edgekd.devices import find_device
from edgekd.distillation.black_box import is_black_box
from edgekd.distillation.objective import Term, outputs_only, plan_terms
from edgekd.errors import Fault, MissingPackageError, RecipeError, RefusedError, listed, unknown
from edgekd.evidence.candidate import Candidate
from edgekd.evidence.outcome import Outcome
from edgekd.formats import format_names
from edgekd.formats.options import ExportOptions
from edgekd.pipeline.candidates.initial import candidates_of, check_io
from edgekd.pipeline.candidates.pruning_latency import latency_target
from edgekd.pipeline.candidates.state import DeploymentTarget
from edgekd.pipeline.extensions import known_names, task_of, try_metric
from edgekd.pipeline.stages import STAGES, bundle
from edgekd.recipe.load import load_recipe
from edgekd.recipe.schema import Recipe, TargetEntry
from edgekd.system.import_string import existing, resolve
from edgekd.system.packages import missing
from edgekd.tasks import Task


@dataclass(frozen=True)
class Plan:
    """A valid recipe, with the targets, candidates and stages of its run."""

    recipe: Recipe
    base: Path
    deployments: tuple[DeploymentTarget, ...]
    candidates: tuple[Candidate, ...]
    stages: tuple[str, ...]


def check(path: Path | str, settings: Sequence[str] = (), base: Path | None = None) -> Plan:
    """The plan of the recipe in `path`, after all checks that need no work.

    The user's files are imported, but their callables are not called.

    Args:
        settings: "key.path=value" each, which override the recipe.
        base: the folder that references are relative to, if it is not the recipe's own.

    Raises:
        RecipeError: the recipe is wrong; the error has all faults.
        RefusedError: a required target supports none of the recipe's schemes.
        MissingPackageError: the packages of a required target's format are not installed.
    """
    path = Path(path)
    base = base or path.parent
    recipe = load_recipe(path, known_names(base), settings)
    task = task_of(recipe, base)
    faults: list[Fault] = []

    def attempt(step: Callable[[], Any]) -> Any:
        try:
            return step()
        except RecipeError as error:
            faults.extend(error.faults)

    for at, reference in _references(recipe):
        attempt(partial(resolve, reference, base=base, at=at))
    attempt(partial(load_calibration, recipe.quantize.calibration, base))
    for term in attempt(partial(_terms, recipe, task)) or ():
        attempt(partial(_try_loss, term))
    attempt(partial(_check_files, recipe, base, task))
    deployments = [attempt(partial(_deployment, entry, base)) for entry in recipe.targets]
    attempt(partial(_check_options, recipe))
    attempt(partial(_check_task, recipe, task))
    attempt(partial(try_metric, recipe, base))
    valid = [deployment for deployment in deployments if deployment]
    attempt(partial(_check_names, valid))
    attempt(partial(latency_target, recipe, valid))
    attempt(partial(bundle.check, recipe, base, valid))
    if faults:
        raise RecipeError(*faults)
    _check_packages(recipe, task)
    candidates = tuple(
        candidate for deployment in deployments for candidate in candidates_of(deployment, recipe)
    )
    check_io(recipe, candidates)
    _check_supported(deployments, candidates)
    stages = [name for name in STAGES if applies(name, recipe)]
    return Plan(recipe, base, tuple(deployments), candidates, tuple(stages))


def _check_packages(recipe: Recipe, task: Task) -> None:
    """Raises a MissingPackageError if pruning or the metric needs a package that is missing."""
    channels = recipe.prune is not None and recipe.prune.method == "structured"
    channels = channels and recipe.prune is not None and recipe.prune.blocks is None
    absent = missing(("torch_pruning",), extra="prune")
    if (channels or recipe.student.width is not None) and absent is not None:
        raise MissingPackageError(absent)
    package = task.metrics[recipe.accept.metric].package
    absent = missing((package[0],), extra=package[1]) if package else None
    if absent is not None:
        raise MissingPackageError(absent)


def _check_task(recipe: Recipe, task: Task) -> None:
    """Raises a RecipeError if the recipe asks for something that its task does not have."""
    distill = recipe.distill
    requested = {
        'export.outputs = "probabilities"': recipe.export.outputs == "probabilities",
        'distill.cache_format = "top-k"': distill is not None and distill.cache_format == "top-k",
    }
    faults = [
        Fault(
            what=f"The task {task.name!r} has no class axis as the last axis of its outputs.",
            at=setting.partition(" ")[0],
            got=setting,
            expected="a task with classes on the last axis: classification, token-classification",
            fix=f"remove {setting.partition(' ')[0]}",
        )
        for setting, present in requested.items()
        if present and task.classes_axis != -1
    ]
    if distill is not None and distill.combine == "best" and task.name != "classification":
        faults.append(
            Fault(
                what="Only classification can select the best teacher of each sample.",
                at="distill.combine",
                got='"best"',
                expected='"weighted"',
                fix="remove distill.combine",
            )
        )
    if faults:
        raise RecipeError(*faults)


def _check_options(recipe: Recipe) -> None:
    """Raises a RecipeError if an option is not a JSON value, which the run store's key needs."""
    entries = {"data": recipe.data, "teacher": recipe.teacher, "student": recipe.student}
    for name, entry in entries.items():
        try:
            json.dumps(entry.options if entry else {}, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise RecipeError(
                Fault(
                    what=f"An option of {name} is not a JSON value.",
                    at=f"{name}.options",
                    got=str(error),
                    expected="strings, finite numbers, booleans, lists and tables",
                    fix="write dates and the like as strings",
                )
            ) from error


def _check_names(deployments: Sequence[DeploymentTarget]) -> None:
    names = [deployment.target.name for deployment in deployments]
    for name in {name for name in names if names.count(name) > 1}:
        raise RecipeError(
            Fault(
                what=f"Two targets are named {name!r}.",
                at="targets",
                got=f"{names.count(name)} profiles with the file name {name}.toml",
                expected="a different file name for each target",
                fix="rename one of the files",
            )
        )


def _terms(recipe: Recipe, task: Task) -> list[Term]:
    return plan_terms(recipe.distill.losses, task) if recipe.distill else []


def _try_loss(term: Term) -> None:
    """Tries a loss of logits on two samples of zeros, so that wrong options fail before any work.

    A loss of inner layers is tried when the networks are loaded, still before any training.
    """
    known = {
        "student_logits": torch.zeros(2, 3),
        "teacher_logits": torch.zeros(2, 3),
        "student_outputs": torch.zeros(2, 3),
        "teacher_outputs": torch.zeros(2, 3),
        "labels": torch.zeros(2, dtype=torch.int64),
    }
    if not set(term.inputs) <= set(known):
        return
    if term.loss.method == "hard":
        shape, labels = term.task.trial
        known |= {"student_logits": torch.zeros(shape), "student_outputs": torch.zeros(shape)}
        known["labels"] = labels
    try:
        term.function(*(known[name] for name in term.inputs), **term.loss.options)
    except Exception as error:
        method, options = term.loss.method, term.loss.options
        raise RecipeError(
            Fault(
                what=f"The loss {method!r} does not accept its options.",
                at=term.at,
                got=", ".join(f"{name} = {value!r}" for name, value in options.items()),
                expected=f"needs {error}" if isinstance(error, KeyError) else str(error),
                fix=f"correct the options of {method}",
            )
        ) from error


def _check_files(recipe: Recipe, base: Path, task: Task) -> None:
    """Raises a RecipeError if a black-box teacher is missing, or must be more than its outputs."""
    faults: list[Fault] = []
    teacher = recipe.teacher
    more = recipe.distill.more_teachers if recipe.distill else []
    entries = [
        ("teacher", teacher),
        *((f"distill.more_teachers[{i}]", e) for i, e in enumerate(more)),
    ]
    for at, entry in entries:
        if entry is not None and is_black_box(entry.load):
            existing(base / entry.load.removeprefix("outputs:"), f"{at}.load")
    if teacher is None or not is_black_box(teacher.load):
        return
    for key, value in (("train", teacher.train), ("weights", teacher.weights)):
        if value is not None:
            faults.append(
                Fault(
                    what="A black-box teacher cannot be trained or get weights.",
                    at=f"teacher.{key}",
                    got=str(value),
                    expected="no teacher.weights and no teacher.train",
                    fix=f"remove teacher.{key}",
                )
            )
    if recipe.student.derived:
        faults.append(
            Fault(
                what="A student cannot be derived from a black-box teacher.",
                at="student.load",
                got=f'"teacher", which is {teacher.load}',
                expected="a teacher that is a torch module",
                fix="name the student's own module in student.load",
            )
        )
    for term in _terms(recipe, task):
        inner = [tap for name, tap in term.taps.items() if tap and not term.of_student(name)]
        faults.extend(outputs_only(teacher.load, tap, f"{term.at}.teacher_layer") for tap in inner)
    if faults:
        raise RecipeError(*faults)


def _references(recipe: Recipe) -> list[tuple[str, str]]:
    """The references to Python callables in `recipe`, with their keys."""
    entries = [
        ("data.load", recipe.data.load),
        ("teacher.load", recipe.teacher.load if recipe.teacher else ""),
        ("student.load", "" if recipe.student.derived else recipe.student.load),
    ]
    others = ("timm:", "hf:")
    more = recipe.distill.more_teachers if recipe.distill else []
    entries += [(f"distill.more_teachers[{i}].load", entry.load) for i, entry in enumerate(more)]
    return [
        (at, reference)
        for at, reference in entries
        if reference
        and not reference.startswith(others)
        and not reference.endswith(".pt2")
        and not is_black_box(reference)
    ]


def _deployment(entry: TargetEntry, base: Path) -> DeploymentTarget:
    target = load_target(entry.name, base)
    if target.format not in format_names():
        at = f"targets/{target.name}.toml:format"
        raise RecipeError(unknown("format", target.format, format_names(), at))
    device = entry.device or target.device
    find_device(device or "local")
    opset = entry.opset or target.opset
    if opset is not None:
        check_exportable(target.format, ExportOptions(opset=opset))
    threads = entry.threads or target.threads
    layout = target.channels_last if entry.channels_last is None else entry.channels_last
    adapted = replace(target, device=device, threads=threads, opset=opset, channels_last=layout)
    return DeploymentTarget(adapted, entry.budget.to_budget(), entry.prefer, entry.required)


def _check_supported(
    deployments: Sequence[DeploymentTarget], candidates: Sequence[Candidate]
) -> None:
    faults = []
    for deployment in deployments:
        ours = [candidate for candidate in candidates if candidate.target == deployment.target.name]
        if deployment.required and all(candidate.outcome is Outcome.REFUSED for candidate in ours):
            faults.append(
                Fault(
                    what=f"{deployment.target.name} supports none of the recipe's schemes.",
                    at="quantize.schemes",
                    got="; ".join(f"{candidate.scheme}: {candidate.detail}" for candidate in ours),
                    expected=listed(deployment.target.schemes),
                    fix=f"add {deployment.target.schemes[0]!r} to quantize.schemes, "
                    "or set required = false",
                )
            )
    if faults:
        raise RefusedError(*faults)


def applies(stage: str, recipe: Recipe) -> bool:
    """Whether a run of `recipe` has the stage."""
    if stage == "train":
        return recipe.teacher is not None
    if stage == "fold":
        return recipe.export.embeds
    if stage == "route":
        return recipe.route is not None
    if stage == "bundle":
        return recipe.bundle is not None
    if stage == "sensitivity":
        return recipe.quantize.sensitivity
    if stage == "ladder":
        return recipe.quantize.search == "auto" and set(recipe.quantize.schemes) != {"fp32"}
    return stage != "prune" or recipe.prune is not None
