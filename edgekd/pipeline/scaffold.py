"""Writes a first recipe from a few answers, which `edgekd init` asks for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgekd.errors import Fault, RecipeError, listed, unknown
from edgekd.pipeline.plan import Plan, check
from edgekd.system.files import write_text
from edgekd.tasks import TASKS

RECIPE = "recipe.toml"

LOSSES = {
    "classification": (0.1, '"soft_target", weight = 0.9, temperature = 4.0'),
    "token-classification": (0.5, '"soft_target", weight = 0.5, temperature = 2.0'),
    "segmentation": (0.5, '"soft_target", weight = 0.5, temperature = 2.0'),
    "regression": (0.5, '"mean_squared", weight = 0.5'),
    # A torch module that returns a tensor has the output "output".
    "embedding": (
        0.5,
        '"cosine_embedding", weight = 0.5, student_layer = "output", teacher_layer = "output"',
    ),
}
"""By task, the default weight of the loss on labels, and the default loss with a teacher."""

SHARE_DROP = 0.01
"""The default max_drop of a metric that is a share; an error has no default, as it has a unit."""


@dataclass(frozen=True)
class Answers:
    """The answers from which a recipe is written.

    Attributes:
        name: the name of the recipe.
        data, student, teacher: references; without a teacher nothing is distilled.
        teacher_weights: a file; if None, the recipe trains the teacher.
        targets: names of target profiles, or paths.
        task: see `edgekd.tasks.TASKS`.
        max_drop: the largest drop of the task's first metric against the teacher; if None, 0.01 for
            a metric that is a share.
        schemes: the schemes to try.
        epochs: the epochs of the student's, and the teacher's, training.
        latency_p90_ms, size_bytes: the budget of each target.
        device: the device of the targets, if it is not the profile's.
    """

    name: str
    data: str = ""
    student: str = ""
    teacher: str | None = None
    teacher_weights: str | None = None
    targets: Sequence[str] = ()
    task: str = "classification"
    max_drop: float | None = None
    schemes: Sequence[str] = ("fp32", "fp16", "int8")
    epochs: int = 30
    latency_p90_ms: float | None = None
    size_bytes: int | None = None
    device: str | None = None


def recipe_lines(answers: Answers) -> list[str]:
    """The recipe, as lines of TOML."""
    quoted = json.dumps  # A JSON string is a basic string of TOML.
    lines = [
        f"name = {quoted(answers.name)}",
        'version = "0.1.0"',
        f"task = {quoted(answers.task)}",
    ]
    lines += ["[data]", f"load = {quoted(answers.data)}"]
    if answers.teacher:
        lines += ["[teacher]", f"load = {quoted(answers.teacher)}"]
        lines += (
            [f"weights = {quoted(answers.teacher_weights)}"]
            if answers.teacher_weights
            else [f"train = {{ epochs = {answers.epochs} }}"]
        )
    weight, distillation = LOSSES[answers.task]
    losses = '[{ method = "hard" }]'
    if answers.teacher:
        losses = f'[{{ method = "hard", weight = {weight} }}, {{ method = {distillation} }}]'
    lines += ["[student]", f"load = {quoted(answers.student)}"]
    lines += ["[distill]", f"epochs = {answers.epochs}", f"losses = {losses}"]
    lines += ["[quantize]", f"schemes = {json.dumps(list(answers.schemes))}"]
    drop = SHARE_DROP if answers.max_drop is None else answers.max_drop
    metric = TASKS[answers.task].default_metric
    lines += ["[accept]", f"metric = {quoted(metric)}", f"max_drop = {drop:g}"]
    limits = [
        f"{key} = {value:g}" if isinstance(value, float) else f"{key} = {value}"
        for key, value in (
            ("latency_p90_ms", answers.latency_p90_ms),
            ("size_bytes", answers.size_bytes),
        )
        if value is not None
    ]
    for target in answers.targets:
        lines += ["", "[[targets]]", f"name = {quoted(target)}"]
        if answers.device:
            lines.append(f"device = {quoted(answers.device)}")
        if limits:
            lines.append(f"budget = {{ {', '.join(limits)} }}")
    return lines


def start(folder: Path, answers: Answers, *, over: bool = False) -> tuple[Path, Plan]:
    """Writes the recipe into `folder` if it is valid, and returns its path and plan.

    Args:
        over: whether to overwrite an existing recipe.

    Raises:
        RecipeError: a recipe exists already, or an answer is wrong; nothing is written then.
    """
    path = check_absent(folder, over=over)
    _check_answers(answers)
    draft = path.with_name(f".{RECIPE}")
    try:
        write_text(draft, "\n".join(recipe_lines(answers)) + "\n")
        plan = check(draft)
        draft.replace(path)
    except RecipeError as error:
        # The draft is deleted, so the fault must name the answer.
        raise RecipeError(*(_of_answer(fault, draft) for fault in error.faults)) from error
    finally:
        draft.unlink(missing_ok=True)
    return path, plan


def _of_answer(fault: Fault, draft: Path) -> Fault:
    """A fault of the recipe in `draft`, stated as a fault of the answers."""
    return replace(
        fault,
        at=fault.at.replace(str(draft), "edgekd init"),
        fix=fault.fix.replace(str(draft), "the answers"),
    )


def check_absent(folder: Path, *, over: bool = False) -> Path:
    """The path of the recipe in `folder`.

    Raises:
        RecipeError: the file exists, and `over` is false.
    """
    path = folder / RECIPE
    if path.exists() and not over:
        raise RecipeError(
            Fault(
                what="The folder has a recipe already.",
                at=str(path),
                got="an existing file",
                expected="a folder without one",
                fix="name another folder, or give --force to overwrite it",
            )
        )
    return path


def _check_answers(answers: Answers) -> None:
    """Raises a RecipeError if an answer is unknown, or a required one is missing."""
    if answers.task not in TASKS:
        raise RecipeError(unknown("task", answers.task, TASKS, "--task"))
    absent = [key for key in ("data", "student") if not getattr(answers, key)]
    absent += ["target"] if not answers.targets else []
    metric = TASKS[answers.task].metrics[TASKS[answers.task].default_metric]
    # Without a teacher there is nothing to compare the error with.
    needs_drop = answers.teacher and answers.max_drop is None and not metric.share
    absent += ["max-drop"] if needs_drop else []
    if absent:
        limit = " --max-drop ERROR (in your data's unit)" if needs_drop else ""
        raise RecipeError(
            Fault(
                what="A recipe needs more answers.",
                at="edgekd init",
                got=f"no {listed([f'--{key}' for key in absent])}",
                expected=f"--data FILE.py:CALLABLE --student FILE.py:CALLABLE --target NAME{limit}",
                fix="give these options, or run edgekd init in a terminal, where it asks",
            )
        )
