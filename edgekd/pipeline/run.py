"""From a recipe to a result: resolve it, fold the stages over the work, write what came of it."""

from __future__ import annotations

import random
import shutil
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch

from edgekd.data import Data, fingerprint
from edgekd.distillation.black_box import is_black_box, load_black_box
from edgekd.errors import Fault, RecipeError, unknown
from edgekd.evidence.target_outcome import NOT_JUDGED, farthest
from edgekd.network.load import load_module
from edgekd.network.network import Network, as_network
from edgekd.pipeline.candidates.state import PipelineState
from edgekd.pipeline.extensions import extension_digests, task_of
from edgekd.pipeline.launch import aside, check_processes, processes, train_in_processes
from edgekd.pipeline.plan import Plan, applies, check
from edgekd.pipeline.result import RunResult
from edgekd.pipeline.stages import STAGES, bundle, distill, prune, verify
from edgekd.pipeline.stages import fold as fold_stage
from edgekd.pipeline.stages import route as route_stage
from edgekd.pruning.derive_student import derived
from edgekd.recipe.routing import Route
from edgekd.recipe.schema import Recipe, Student, TeacherTable
from edgekd.recipe.training import MoreTeacher
from edgekd.report import read_run, write_report
from edgekd.report.junit import cases, junit, summary
from edgekd.system.environment import environment
from edgekd.system.files import digest, write_json, write_text
from edgekd.system.import_string import call_user, resolve, sources_digest
from edgekd.system.notebook_progress import default_progress
from edgekd.system.packages import missing
from edgekd.system.progress import Progress
from edgekd.system.store import Run, mark_latest, open_run
from edgekd.training.distributed import join, launched, leave, world


def run(
    path: Path | str,
    out: Path | str = "runs",
    *,
    until: str | None = None,
    settings: Sequence[str] = (),
    base: Path | None = None,
    progress: Progress | None = None,
) -> RunResult:
    """What the recipe in `path` came to, in a new folder `out/NAME/RUN/`.

    What earlier runs of the recipe made, and nothing it depends on has changed, is used again.

    Args:
        until: the last stage to do.
        settings: "key.path=value" each, put over the recipe.
        base: the folder that references are relative to, if it is not the recipe's own.
        tell: hears how far it is. Without it that is drawn under the cell of a notebook, and
            elsewhere nowhere.

    Raises:
        EdgekdError: before export, whatever stops a stage; see `check` too. From export on a
            failure is a row of the result.
    """
    if until is not None and until not in STAGES:
        raise RecipeError(unknown("stage", until, STAGES, "--until"))
    plan = check(path, settings, base)
    recipe = plan.recipe
    check_processes(recipe)
    join()
    if world()[0]:
        return _take_part(plan, Path(out), until)
    place = open_run(Path(out), recipe.name, recipe.seed, progress or default_progress())
    document = recipe.model_dump(exclude_none=True)
    write_text(place.folder / "recipe.toml", tomli_w.dumps(document))
    told = {**environment(), "recipe_folder": str(plan.base.resolve())}
    write_json(place.folder / "environment.json", told)
    try:
        if processes(recipe) > 1 and launched() == 1:
            spawn = partial(
                train_in_processes, plan, Path(path), settings, place, last_together(until)
            )
            place = replace(place, spawn=spawn)
        state = fold(begin(plan, place), place, until)
    except BaseException:
        with place.log.open("a", encoding="utf-8") as log:
            log.write(traceback.format_exc())
        raise
    result = _conclude(state, place, until)
    write_json(place.folder / "result.json", result.to_json())
    if until is None:
        _write_report(place)
    _write_summaries(place, result)
    mark_latest(place)
    return result


def route(
    folder: Path | str,
    *,
    agreement: float | None = None,
    confidence: float | None = None,
    progress: Progress | None = None,
) -> RunResult:
    """The run in `folder` again with `[route]`: a new run, in which nothing is done twice.

    Args:
        agreement, confidence: see `edgekd.recipe.routing.Route`; what the recipe says without them.

    Raises:
        RecipeError: it is no run that ended, or its answers cannot be routed.
    """
    place = Path(folder).resolve()
    told = read_run(place)
    settings = [f"route.agreement={agreement!r}"] if agreement is not None else []
    settings += [f"route.confidence={confidence!r}"] if confidence is not None else []
    if not settings and "route" not in told.recipe:
        settings = [f"route.agreement={Route().agreement}"]
    base = Path(told.environment.get("recipe_folder", place))
    return run(
        place / "recipe.toml", place.parents[1], settings=settings, base=base, progress=progress
    )


def _write_report(place: Run) -> None:
    """Writes `report.html`, or says how to have it drawn."""
    absent = missing(("vl_convert",), extra="report")
    if absent is not None:
        place.progress("report", f"not drawn: {absent.fix}")
        return
    write_report([place.folder], place.folder / "report.html")


def _write_summaries(place: Run, result: RunResult) -> None:
    """Writes what CI systems show: `junit.xml` and `summary.md`."""
    found = cases(result.rows, result.required)
    write_text(place.folder / "junit.xml", junit(result.name, found))
    ships = {name: (choice.candidate or "", choice.why) for name, choice in result.chosen.items()}
    told = summary(result.name, result.metric, result.rows, ships)
    write_text(place.folder / "summary.md", told)


TOGETHER = ("train", "distill", "prune", "quantize")
"""The stages in which several processes take part."""


def last_together(until: str | None) -> str:
    """The last of these in a run to the stage `until`."""
    names = list(STAGES)
    done = names[: names.index(until) + 1] if until else names
    return next(name for name in reversed(done) if name in TOGETHER)


def _take_part(plan: Plan, out: Path, until: str | None) -> RunResult:
    """What a process that is not the first comes to: it helps to teach the student, and ends."""
    place = aside(out, plan.recipe)
    try:
        last = last_together(until)
        return _conclude(fold(begin(plan, place), place, last), place, last)
    finally:
        leave()
        shutil.rmtree(place.folder)


def fold(state: PipelineState, place: Run, until: str | None) -> PipelineState:
    """`state` after its stages to `until`, or to the last."""
    for name, stage in STAGES.items():
        if applies(name, state.recipe):
            place.progress(name, "")
            begun = time.monotonic()
            state = stage.step(state, place)
            took = time.monotonic() - begun
            state = replace(state, seconds={**state.seconds, name: took})
        if name == last_together(until):
            leave()
        if name == until:
            break
    return state


def _conclude(state: PipelineState, place: Run, until: str | None) -> RunResult:
    required = {deployment.target.name: deployment.required for deployment in state.deployments}
    codes = [
        end.outcome.exit_code
        for name, needed in required.items()
        if (
            end := farthest(
                [candidate for candidate in state.candidates if candidate.target == name]
            )
        )
        and end.outcome
        if needed or end.outcome not in NOT_JUDGED
    ]
    finished = until is None or until == list(STAGES)[-1]
    return RunResult(
        name=state.recipe.name,
        folder=place.folder,
        rows=state.candidates,
        chosen=state.chosen,
        passed=not codes and finished,
        exit_code=min(codes, default=0),
        metric=state.recipe.accept.metric,
        smaller_is_better=state.task.metrics[state.recipe.accept.metric].smaller_is_better,
        agreed=state.task.agreement_name,
        teacher=state.teacher_score,
        student=state.student_score,
        unpruned=state.unpruned_score,
        pruning=state.pruning,
        reused=tuple(place.reused or ()),
        until=until,
        required=required,
        routes=state.routes,
        seconds=state.seconds,
        bundles=state.bundles,
    )


def begin(plan: Plan, place: Run) -> PipelineState:
    """The work before its first stage: data and networks loaded."""
    recipe, base = plan.recipe, plan.base
    place.progress("load", "data")
    loader = resolve(recipe.data.load, base=base, at="data.load")
    # A loader that draws its splits at random draws the same ones again.
    torch.manual_seed(recipe.seed)
    np.random.seed(recipe.seed)
    random.seed(recipe.seed)
    data = call_user(loader, "data.load", **recipe.data.options)
    if not isinstance(data, Data):
        raise RecipeError(
            Fault(
                what=f"{recipe.data.load} did not return edgekd.Data.",
                at="data.load",
                got=type(data).__name__,
                expected="edgekd.Data(train, validation, test)",
                fix="return edgekd.Data from the callable",
            )
        )
    place.progress("load", "networks")
    teachers = tuple(
        (_teacher(entry, data, plan, at), weight) for entry, weight, at in _teacher_entries(recipe)
    )
    another = partial(_student, data, plan, teachers)
    splits = (data.train, data.validation, data.test, data.unlabeled)
    state = PipelineState(
        recipe=recipe,
        base=base,
        task=task_of(recipe, base),
        deployments=plan.deployments,
        data=data,
        data_key=digest(
            {
                "load": recipe.data.load,
                "options": recipe.data.options,
                "source": sources_digest(base),
                "extensions": extension_digests(recipe, base),
                "splits": [fingerprint(split) for split in splits],
            }
        ),
        student=another(0),
        teachers=teachers,
        another_student=another,
        slices=data.slice_ids(),
        candidates=plan.candidates,
    )
    verify.preflight(state)
    distill.preflight(state)
    prune.preflight(state)
    fold_stage.preflight(state)
    route_stage.preflight(state)
    bundle.preflight(state)
    return state


def _teacher_entries(recipe: Recipe) -> list[tuple[TeacherTable | MoreTeacher, float, str]]:
    """The teachers of a recipe, with their weights and keys."""
    entries: list[tuple[TeacherTable | MoreTeacher, float, str]] = []
    if recipe.teacher is not None:
        entries.append((recipe.teacher, 1.0, "teacher"))
    for number, more in enumerate(recipe.distill.more_teachers if recipe.distill else ()):
        entries.append((more, more.weight, f"distill.more_teachers[{number}]"))
    return entries


def _teacher(entry: TeacherTable | MoreTeacher, data: Data, plan: Plan, at: str) -> Any:
    if is_black_box(entry.load):
        return load_black_box(entry.load, base=plan.base, at=f"{at}.load")
    return _network(entry, data, plan, at)


def _student(data: Data, plan: Plan, teachers: Sequence[tuple[Any, float]], number: int) -> Network:
    """The student untaught; its random weights are others for each `number`."""
    entry = plan.recipe.student
    if not entry.derived:
        return _network(entry, data, plan, "student", plan.recipe.seed + number)
    teacher = teachers[0][0]
    if not isinstance(teacher, Network):
        raise RecipeError(
            Fault(
                what="A student cannot be derived from a teacher that is a file.",
                at="student.load",
                got='"teacher", and of it only the outputs are known',
                expected="a teacher that is a torch module",
                fix="name the student's own module in student.load",
            )
        )
    return derived(teacher, entry)


def _network(
    entry: TeacherTable | MoreTeacher | Student,
    data: Data,
    plan: Plan,
    role: str,
    seed: int | None = None,
) -> Network:
    # Each alone: the student does not depend on the teacher.
    torch.manual_seed(plan.recipe.seed if seed is None else seed)
    module, lineage = load_module(
        entry.load, weights=entry.weights, options=entry.options, base=plan.base, at=f"{role}.load"
    )
    item = data.test[0]
    first = item[0] if isinstance(item, list | tuple) else item
    if isinstance(first, Mapping):
        example: Any = {name: torch.as_tensor(value)[None] for name, value in first.items()}
    else:
        example = torch.as_tensor(first)[None]
    free = entry.dynamic_dims if isinstance(entry, Student) else ()
    return as_network(module.eval(), example, lineage, free)
