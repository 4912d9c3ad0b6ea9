"""Which answers of what ships a device keeps, and for which it asks the larger model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgekd.errors import Fault, RecipeError
from edgekd.evidence.routing import DECISIONS, Decisions, Routing, calibrate_route
from edgekd.pipeline.candidates.state import Work
from edgekd.recipe.routing import Route
from edgekd.system.files import write_json
from edgekd.system.store import Run


def route(validation: Decisions, test: Decisions, config: Route) -> Routing:
    """The threshold that keeps most of what agrees with the teacher as `config` asks.

    Args:
        validation: what the device and the teacher decided where it is calibrated.
        test: the same where it is only tried.

    Raises:
        ValueError: a split has no sample.
    """
    return calibrate_route(validation, test, config)


def preflight(work: Work) -> None:
    """Finds out, before any work, whether answers are classes with a probability.

    Raises:
        RecipeError: they are not, or the teacher's are not known.
    """
    if work.recipe.route is None:
        return
    output = work.student.signature.outputs[0]
    if work.recipe.task != "classification" or len(output.shape) != 2:
        raise RecipeError(
            Fault(
                what="Only answers that are one class of several can be routed.",
                at="route",
                got=f"task {work.recipe.task}, output {output.name} {output.shape}",
                expected="classification, an output of batch x classes",
                fix="leave [route] out",
            )
        )
    known = getattr(work.teacher, "splits", None)
    absent = [name for name in ("validation", "test") if known is not None and name not in known]
    if absent:
        raise RecipeError(
            Fault(
                what="Routing needs the teacher's answers on validation and on test.",
                at="route",
                got=f"a table of outputs without {absent[0]}",
                expected="outputs for validation and test too",
                fix="add them to the table, or leave [route] out",
            )
        )


def step(work: Work, run: Run) -> Work:
    """The work with a threshold for every target that ships something."""
    config = work.recipe.route
    assert config is not None
    routes = {}
    for row in work.rows:
        if not work.chosen[row.target].ships(row):
            continue
        place = run.folder / "verify" / f"{row.target}-{row.candidate}" / DECISIONS
        with np.load(place, allow_pickle=False) as file:
            decided = {
                split: Decisions(
                    probability=file[f"{split}_probability"],
                    agrees=file[f"{split}_class"] == work.teacher_classes[split].numpy(),
                )
                for split in ("validation", "test")
            }
        routes[row.target] = route(decided["validation"], decided["test"], config)
        write_json(run.folder / "route" / f"{row.target}.json", routes[row.target].to_json())
        run.tell("route", f"{row.target}: {routes[row.target].why}")
    return replace(work, routes=routes)
