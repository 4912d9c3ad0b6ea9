"""Several processes for one training: started here, or by the user's own torchrun."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekd.errors import ERRORS, Fault, InternalError, RecipeError
from edgekd.pipeline.plan import Plan
from edgekd.recipe.schema import Recipe
from edgekd.system.process import follow_process
from edgekd.system.store import Run
from edgekd.training.distributed import launched

MARK = "edgekd-worker "
"""What a line that a worker writes on stderr for us begins with; JSON follows."""


def processes(recipe: Recipe) -> int:
    """The number of processes that the recipe asks for."""
    return recipe.distill.devices * recipe.distill.nodes if recipe.distill else 1


def check_processes(recipe: Recipe) -> None:
    """Finds out whether the processes there are, or can be started, are those of the recipe.

    Raises:
        RecipeError: they are not.
    """
    asked, there = processes(recipe), launched()
    distill = recipe.distill
    if there > 1 and asked != there:
        raise RecipeError(
            Fault(
                what="The launcher started another number of processes than the recipe asks for.",
                at="distill.devices",
                got=f"{there} processes, and a recipe for {asked}",
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
                expected="nodes = 1, or one torchrun on each machine, over a shared --out",
                fix=f"torchrun --nnodes {distill.nodes} --nproc-per-node {distill.devices} "
                "--rdzv-backend c10d --rdzv-endpoint HOST:PORT -m edgekd.cli run RECIPE",
            )
        )


def aside(out: Path, recipe: Recipe) -> Run:
    """The run of a process that is not the first: it shares the store, and tells nobody."""
    folder = Path(tempfile.mkdtemp(prefix="edgekd-"))
    return Run(folder=folder, store=out / recipe.name / "store", seed=recipe.seed, reused=[])


def train_in_processes(
    plan: Plan, path: Path, settings: Sequence[str], run: Run, until: str
) -> None:
    """Has several processes on this machine do the stages to `until`; what they trained is in the
    run's store then.

    Raises:
        EdgekdError: what stopped one of them.
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
        word = json.loads(line.removeprefix(MARK))
        if "tell" in word:
            run.progress(*word["tell"])
        else:
            stopped.append(word)

    done = follow_process(
        [*launcher, *count, "-m", "edgekd.pipeline.training_worker", json.dumps(job)], on_line
    )
    if stopped:
        raise ERRORS[stopped[0]["exit_code"]](*(Fault(**fault) for fault in stopped[0]["faults"]))
    if done.code != 0:
        raise InternalError(
            Fault(
                what="A process of the distillation died.",
                at=f"distill.devices = {processes(plan.recipe)}",
                got=f"exit code {done.code}: {done.last_lines}",
                expected="processes that end well",
                fix=f"look into {run.log}; devices = 1 does without",
            )
        )
