"""A first recipe, made of a few answers; `edgekd init` asks for them."""

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
"""By task: the weight of the loss against labels, and the loss against a teacher, to begin with."""

SHARE_DROP = 0.01
"""Of a metric that is a share. What an error may rise by is in the unit of the data: no default."""


@dataclass(frozen=True)
class Answers:
    """What a recipe cannot be without, and what most want to say.

    Attributes:
        data, student, teacher: references; without a teacher nothing is distilled.
        teacher_weights: a file; without one the teacher is trained here.
        task: what the network does; see `edgekd.tasks.TASKS`.
        max_drop: of the task's first metric against the teacher; None: 0.01, of shares alone.
        targets: names of profiles, or paths.
        latency_p90_ms, size_bytes: the budget of each target.
        device: where they run, if it is not what the profile says.
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
    weight, taught = LOSSES[answers.task]
    losses = '[{ method = "hard" }]'
    if answers.teacher:
        losses = f'[{{ method = "hard", weight = {weight} }}, {{ method = {taught} }}]'
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
    """Writes the recipe into `folder` where it is valid, and returns its path and plan.

    Args:
        over: whether a recipe that is there already may go.

    Raises:
        RecipeError: a recipe is there already, or an answer is wrong; then none is written.
    """
    path = check_absent(folder, over=over)
    _check_answers(answers)
    draft = path.with_name(f".{RECIPE}")
    try:
        write_text(draft, "\n".join(recipe_lines(answers)) + "\n")
        plan = check(draft)
        draft.replace(path)
    except RecipeError as error:
        # The draft goes; what is wrong is an answer.
        raise RecipeError(*(_of_answer(fault, draft) for fault in error.faults)) from error
    finally:
        draft.unlink(missing_ok=True)
    return path, plan


def _of_answer(fault: Fault, draft: Path) -> Fault:
    """A fault of the recipe in `draft`, as one of the answers that it was made of."""
    return replace(
        fault,
        at=fault.at.replace(str(draft), "edgekd init"),
        fix=fault.fix.replace(str(draft), "the answers"),
    )


def check_absent(folder: Path, *, over: bool = False) -> Path:
    """Where the recipe of `folder` goes.

    Raises:
        RecipeError: one is there already, and may not go.
    """
    path = folder / RECIPE
    if path.exists() and not over:
        raise RecipeError(
            Fault(
                what="There is a recipe already.",
                at=str(path),
                got="a file of that name",
                expected="a folder without one",
                fix="name another folder, or give --force to write over it",
            )
        )
    return path


def _check_answers(answers: Answers) -> None:
    """Refuses what no recipe can be made of."""
    if answers.task not in TASKS:
        raise RecipeError(unknown("task", answers.task, TASKS, "--task"))
    absent = [key for key in ("data", "student") if not getattr(answers, key)]
    absent += ["target"] if not answers.targets else []
    metric = TASKS[answers.task].metrics[TASKS[answers.task].default_metric]
    # Without a teacher there is nothing that the error could rise against.
    unsaid = answers.teacher and answers.max_drop is None and not metric.share
    absent += ["max-drop"] if unsaid else []
    if absent:
        limit = " --max-drop ERROR (in your data's unit)" if unsaid else ""
        raise RecipeError(
            Fault(
                what="A recipe cannot be made without these answers.",
                at="edgekd init",
                got=f"no {listed([f'--{key}' for key in absent])}",
                expected=f"--data FILE.py:CALLABLE --student FILE.py:CALLABLE --target NAME{limit}",
                fix="give them, or run edgekd init in a terminal, where it asks",
            )
        )
