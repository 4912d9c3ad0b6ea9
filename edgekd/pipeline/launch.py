"""Several processes for one training, started by edgekd or by the user's torchrun."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekd.errors import ERRORS, Fault, InternalError, RecipeError
from edgekd.pipeline.plan import Plan
from edgekd.recipe.schema import Recipe
from edgekd.system.process import follow_process
from edgekd.system.scratch import lasting_folder, scratch_folder
from edgekd.system.store import Run
from edgekd.training.distributed import launched

MARK = "edgekd-worker "
"""The start of a line of JSON that a worker writes to stderr for edgekd."""


def processes(recipe: Recipe) -> int:
    """The number of processes that the recipe asks for."""
    return recipe.distill.devices * recipe.distill.nodes if recipe.distill else 1


def check_processes(recipe: Recipe) -> None:
    """Checks that the launched processes are those of the recipe, or that edgekd can start them.

    Raises:
        RecipeError: the numbers differ, or the recipe needs several machines.
    """
    asked, there = processes(recipe), launched()
    distill = recipe.distill
    if there > 1 and asked != there:
        raise RecipeError(
            Fault(
                what="The launcher started a different number of processes than the recipe has.",
                at="distill.devices",
                got=f"{there} processes, the recipe asks for {asked}",
                expected=f"devices times nodes = {there}",
                fix=f"--set distill.devices={there}",
            )
        )
    if there == 1 and distill is not None and distill.nodes > 1:
        raise RecipeError(
            Fault(
                what="edgekd cannot start processes on other machines.",
                at="distill.nodes",
                got=str(distill.nodes),
                expected="nodes = 1, or one torchrun on each machine with a shared --out folder",
                fix=f"torchrun --nnodes {distill.nodes} --nproc-per-node {distill.devices} "
                "--rdzv-backend c10d --rdzv-endpoint HOST:PORT -m edgekd.cli run RECIPE",
            )
        )


def helper_run(out: Path, recipe: Recipe) -> Run:
    """The run of a process other than the first: it shares the store and reports no progress."""
    return Run(
        folder=lasting_folder("training"),
        store=out / recipe.name / "store",
        seed=recipe.seed,
        reused=[],
    )


def train_in_processes(
    plan: Plan, path: Path, settings: Sequence[str], run: Run, until: str
) -> None:
    """Runs the stages to `until` in several processes on this machine, which fill the run's store.

    Raises:
        EdgekdError: the error that stopped one of them.
    """
    job = {
        "recipe": str(path.resolve()),
        "settings": list(settings),
        "until": until,
        "folder": str(run.folder.resolve()),
        "store": str(run.store.resolve()),
    }
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    count = ["--nproc-per-node", str(processes(plan.recipe))]
    stopped: list[dict[str, Any]] = []

    def on_line(line: str) -> None:
        if not line.startswith(MARK):
            with run.log.open("a", encoding="utf-8") as log:
                log.write(line + "\n")
            return
        message = json.loads(line.removeprefix(MARK))
        if "progress" in message:
            run.progress(*message["progress"])
        else:
            stopped.append(message)

    argv = [*launcher, *count, "-m", "edgekd.pipeline.training_worker", json.dumps(job)]
    with scratch_folder("training") as scratch:
        done = follow_process(argv, on_line, env={"TMPDIR": str(scratch)})
    if stopped:
        raise ERRORS[stopped[0]["exit_code"]](*(Fault(**fault) for fault in stopped[0]["faults"]))
    if done.code != 0:
        raise InternalError(
            Fault(
                what="A training process ended unexpectedly.",
                at=f"distill.devices = {processes(plan.recipe)}",
                got=f"exit code {done.code}: {done.last_lines}",
                expected="exit code 0",
                fix=f"read {run.log}, or set distill.devices = 1 to train in one process",
            )
        )
