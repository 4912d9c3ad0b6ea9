"""A first recipe, made of a few answers; `edgekd init` asks for them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekd.errors import Fault, RecipeError, listed
from edgekd.plan import Plan, check
from edgekd.store import write_text

RECIPE = "recipe.toml"


@dataclass(frozen=True)
class Answers:
    """What a recipe cannot be without, and what most want to say.

    Attributes:
        data, student, teacher: references; without a teacher nothing is distilled.
        teacher_weights: a file; without one the teacher is trained here.
        targets: names of profiles, or paths.
        latency_p90_ms, size_bytes: the budget of each target.
        device: where they run, if it is not what the profile says.
    """

    name: str
    data: str
    student: str
    teacher: str | None
    teacher_weights: str | None
    targets: Sequence[str]
    schemes: Sequence[str] = ("fp32", "fp16", "int8")
    epochs: int = 30
    latency_p90_ms: float | None = None
    size_bytes: int | None = None
    device: str | None = None


def recipe_lines(answers: Answers) -> list[str]:
    """The recipe, as lines of TOML."""
    quoted = json.dumps  # A JSON string is a basic string of TOML.
    lines = [f"name = {quoted(answers.name)}", 'version = "0.1.0"', "", "[data]"]
    lines += [f"load = {quoted(answers.data)}"]
    if answers.teacher:
        lines += ["", "[teacher]", f"load = {quoted(answers.teacher)}"]
        lines += (
            [f"weights = {quoted(answers.teacher_weights)}"]
            if answers.teacher_weights
            else [f"train = {{ epochs = {answers.epochs} }}"]
        )
    lines += ["", "[student]", f"load = {quoted(answers.student)}", "", "[distill]"]
    losses = '[{ method = "hard" }]'
    if answers.teacher:
        losses = (
            '[{ method = "hard", weight = 0.1 }, '
            '{ method = "soft_target", weight = 0.9, temperature = 4.0 }]'
        )
    lines += [f"epochs = {answers.epochs}", f"losses = {losses}", "", "[quantize]"]
    lines += [f"schemes = {json.dumps(list(answers.schemes))}"]
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


def start(folder: Path, answers: Answers, *, replace: bool = False) -> tuple[Path, Plan]:
    """Writes the recipe into `folder` where it is valid, and returns its path and plan.

    Args:
        replace: whether a recipe that is there already may go.

    Raises:
        RecipeError: a recipe is there already, or an answer is wrong; then none is written.
    """
    path = folder / RECIPE
    if path.exists() and not replace:
        raise RecipeError(
            Fault(
                what="There is a recipe already.",
                at=str(path),
                got="a file of that name",
                expected="a folder without one",
                fix="name another folder, or give --force to write over it",
            )
        )
    absent = [key for key in ("data", "student") if not getattr(answers, key)]
    absent += ["target"] if not answers.targets else []
    if absent:
        raise RecipeError(
            Fault(
                what="A recipe cannot be made without these answers.",
                at="edgekd init",
                got=f"no {listed([f'--{key}' for key in absent])}",
                expected="--data FILE.py:CALLABLE --student FILE.py:CALLABLE --target NAME",
                fix="give them, or run edgekd init in a terminal, where it asks",
            )
        )
    draft = path.with_name(f".{RECIPE}")
    try:
        write_text(draft, "\n".join(recipe_lines(answers)) + "\n")
        plan = check(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path, plan
