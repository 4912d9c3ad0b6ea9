"""The command that writes a first recipe."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from edgekd.cli import completion
from edgekd.cli.options import AsJson, echo, print_json, say_next
from edgekd.errors import listed

TaskName = Annotated[
    str | None,
    typer.Option(
        help=f"The task: {listed(completion.TASKS)}. The default is classification.",
        autocompletion=completion.tasks,
    ),
]
TeacherReference = Annotated[
    str | None,
    typer.Option(
        help="FILE.py:CALLABLE that returns a torch module, or a model file. Without a "
        "teacher, the student learns from the labels alone."
    ),
]
TeacherWeights = Annotated[
    str | None,
    typer.Option(
        help="The weights of the teacher, a .safetensors file. Without it, the run trains the "
        "teacher."
    ),
]
TargetNames = Annotated[
    list[str] | None,
    typer.Option(
        help="A target that edgekd targets lists. Repeatable.",
        autocompletion=completion.targets,
    ),
]
DeviceUrl = Annotated[
    str | None,
    typer.Option(help="The device of the targets: local, ssh://USER@HOST or adb://SERIAL."),
]
LatencyBudget = Annotated[
    float | None, typer.Option(help="The budget: the largest p90 latency, in milliseconds.")
]
SizeBudget = Annotated[int | None, typer.Option(help="The budget: the largest file, in bytes.")]
MaxDrop = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="The largest accepted drop of the metric against the teacher, absolute. The "
        "default is 0.01 for a metric between 0 and 1.",
    ),
]


def init(
    folder: Annotated[Path, typer.Argument(help="The folder of the new recipe.toml.")] = Path(),
    name: Annotated[
        str | None,
        typer.Option(help="The name of the recipe. The default is the name of the folder."),
    ] = None,
    task: TaskName = None,
    data: Annotated[
        str | None, typer.Option(help="FILE.py:CALLABLE that returns edgekd.Data.")
    ] = None,
    student: Annotated[
        str | None, typer.Option(help="FILE.py:CALLABLE that returns a torch module.")
    ] = None,
    teacher: TeacherReference = None,
    teacher_weights: TeacherWeights = None,
    target: TargetNames = None,
    device: DeviceUrl = None,
    latency_p90_ms: LatencyBudget = None,
    size_bytes: SizeBudget = None,
    max_drop: MaxDrop = None,
    epochs: Annotated[
        int, typer.Option(min=1, help="The epochs of the student, and of the teacher.")
    ] = 30,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an existing recipe.toml.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write a first recipe; a terminal asks for what is not given."""
    from edgekd.cli.plan_text import plan_lines
    from edgekd.pipeline.scaffold import Answers, check_absent, start

    check_absent(folder, over=force)
    given: dict[str, Any] = {
        "task": task,
        "data": data,
        "student": student,
        "teacher": teacher,
        "targets": target,
        "max_drop": max_drop,
        "latency_p90_ms": latency_p90_ms,
    }
    if sys.stdin.isatty() and not as_json:
        given |= _asked(given)
    answers = Answers(
        name=name or folder.resolve().name,
        teacher_weights=teacher_weights,
        epochs=epochs,
        size_bytes=size_bytes,
        device=device,
        **{key: value for key, value in given.items() if value is not None},
    )
    path, plan = start(folder, answers, over=force)
    if as_json:
        print_json({"recipe": str(path), "stages": list(plan.stages)})
        return
    echo(f"written: {path}")
    for line in plan_lines(plan):
        echo(line)
    say_next(
        f"edgekd run {path}; to see what a target runs badly first: edgekd check {path} --lint"
    )


def _asked(given: Mapping[str, Any]) -> dict[str, Any]:
    """Answers from a terminal to what is not given."""
    from edgekd.artifacts.target import target_names
    from edgekd.pipeline.scaffold import SHARE_DROP
    from edgekd.tasks import TASKS

    answers: dict[str, Any] = {}

    def ask(key: str, question: str, default: str = "", known: Sequence[str] = ()) -> None:
        while given[key] is None and key not in answers:
            answer = typer.prompt(question, default=default, err=True).strip()
            if known and answer not in known:
                echo(f"  one of: {', '.join(known)}", err=True)
                continue
            answers[key] = answer or None

    def ask_number(key: str, question: str, default: str = "") -> None:
        while given[key] is None and key not in answers:
            answer = typer.prompt(question, default=default, err=True).strip()
            try:
                answers[key] = float(answer) if answer else None
            except ValueError:
                echo("  a number, such as 2.5", err=True)

    ask("task", f"task ({', '.join(TASKS)})", "classification", list(TASKS))
    ask("data", "data: a callable that returns edgekd.Data, e.g. data.py:load")
    ask("student", "student: a callable that returns a torch module, e.g. models.py:student")
    ask("teacher", "teacher that the student learns from: a callable; empty for no teacher")
    if given["teacher"] or answers.get("teacher"):
        task = TASKS[given["task"] or answers["task"]]
        share = task.metrics[task.default_metric].share
        unit = "from 0 to 1" if share else "in the unit of your data"
        question = f"largest accepted drop of {task.default_metric} against the teacher, {unit}"
        ask_number("max_drop", question, str(SHARE_DROP) if share else "")
    if not given["targets"]:
        echo(f"targets: {', '.join(target_names())}", err=True)
        names = typer.prompt("targets, separated by spaces", default="x86-cpu-onnx", err=True)
        answers["targets"] = names.split()
    ask_number("latency_p90_ms", "largest p90 latency in milliseconds; empty for no limit")
    return answers
