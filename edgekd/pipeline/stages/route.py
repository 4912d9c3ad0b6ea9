"""Calibrate the model cascade: which answers the device keeps, and which it defers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgekd.errors import Fault, RecipeError
from edgekd.evidence.routing import DECISIONS, Decisions, Routing, calibrate_route
from edgekd.pipeline.candidates.state import PipelineState
from edgekd.recipe.routing import Route
from edgekd.system.files import write_json
from edgekd.system.store import Run


def route(validation: Decisions, test: Decisions, config: Route) -> Routing:
    """The threshold that keeps most answers with the agreement that `config` asks for.

    Args:
        validation: the decisions of device and teacher on the split that calibrates the threshold.
        test: the decisions on the split that is only reported.

    Raises:
        ValueError: a split has no sample.
    """
    return calibrate_route(validation, test, config)


def preflight(state: PipelineState) -> None:
    """Checks, before any work, that the outputs are class probabilities.

    Raises:
        RecipeError: they are not, or the teacher's outputs are not known.
    """
    if state.recipe.route is None:
        return
    output = state.student.signature.outputs[0]
    if state.recipe.task != "classification" or len(output.shape) != 2:
        raise RecipeError(
            Fault(
                what="A model cascade needs a classification task.",
                at="route",
                got=f"task {state.recipe.task}, output {output.name} {output.shape}",
                expected="task classification, an output of batch x classes",
                fix="remove [route]",
            )
        )
    known = getattr(state.teacher, "splits", None)
    absent = [name for name in ("validation", "test") if known is not None and name not in known]
    if absent:
        raise RecipeError(
            Fault(
                what="A model cascade needs the teacher's outputs on validation and test.",
                at="route",
                got=f"a table of outputs without {absent[0]}",
                expected="outputs for validation and test too",
                fix="add them to the table, or remove [route]",
            )
        )


def step(state: PipelineState, run: Run) -> PipelineState:
    """The state with a threshold for every target that ships an artifact."""
    config = state.recipe.route
    assert config is not None
    routes = {}
    for candidate in state.candidates:
        if not state.chosen[candidate.target].ships(candidate):
            continue
        path = run.folder / "verify" / f"{candidate.target}-{candidate.name}" / DECISIONS
        with np.load(path, allow_pickle=False) as file:
            decided = {
                split: Decisions(
                    probability=file[f"{split}_probability"],
                    agrees=file[f"{split}_class"] == state.teacher_classes[split].numpy(),
                )
                for split in ("validation", "test")
            }
        routes[candidate.target] = route(decided["validation"], decided["test"], config)
        write_json(
            run.folder / "route" / f"{candidate.target}.json", routes[candidate.target].to_json()
        )
        run.progress("route", f"{candidate.target}: {routes[candidate.target].why}")
    return replace(state, routes=routes)
