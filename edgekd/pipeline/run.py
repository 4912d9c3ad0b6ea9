"""Runs a recipe: checks it, runs its stages, and writes the results."""

from __future__ import annotations

import random
import shlex
import shutil
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
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
from edgekd.pipeline.launch import check_processes, helper_run, processes, train_in_processes
from edgekd.pipeline.plan import Plan, applies, check
from edgekd.pipeline.result import RunResult
from edgekd.pipeline.stages import STAGES, bundle, distill, prune, verify
from edgekd.pipeline.stages import fold as fold_stage
from edgekd.pipeline.stages import route as route_stage
from edgekd.pruning.derive_student import derived
from edgekd.recipe.routing import Route
from edgekd.recipe.schema import Recipe, Student, TeacherTable
from edgekd.recipe.training import MoreTeacher
from edgekd.report import read_run
from edgekd.report.junit import cases, junit, summary
from edgekd.system.disk_errors import disk_errors_explained, disk_errors_name
from edgekd.system.environment import environment
from edgekd.system.files import digest, write_json, write_text
from edgekd.system.import_string import call_user, resolve, sources_digest
from edgekd.system.notebook_progress import default_progress
from edgekd.system.packages import missing
from edgekd.system.process import run_process
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
    """Runs the recipe in `path` in a new folder `out/NAME/RUN/`, and returns the result.

    Results of earlier runs of the recipe are reused unless something that they depend on changed.

    Args:
        until: the last stage to run.
        settings: "key.path=value" each, which override the recipe.
        base: the folder that references are relative to, if it is not the recipe's own.
        progress: receives the progress; by default it is drawn under the cell of a notebook, and
            nowhere else.

    Raises:
        EdgekdError: a stage before export failed; see `check` too. From export on, a failure is the
            outcome of a candidate.
    """
    if until is not None and until not in STAGES:
        raise RecipeError(unknown("stage", until, STAGES, "--until"))
    plan = check(path, settings, base)
    check_processes(plan.recipe)
    join()
    with disk_errors_explained(), disk_errors_name(Path(out)):
        if world()[0]:
            return _take_part(plan, Path(out), until)
        opened = open_run(
            Path(out), plan.recipe.name, plan.recipe.seed, progress or default_progress()
        )
        try:
            result = _run_plan(plan, Path(path), settings, opened, until)
        except BaseException:
            # A full disk must not hide the error by one of its own.
            with suppress(OSError), opened.log.open("a", encoding="utf-8") as log:
                log.write(traceback.format_exc())
            raise
        write_json(opened.folder / "result.json", result.to_json())
        _write_summaries(opened, result)
        mark_latest(opened)
    if until is None:
        _draw_report(opened)
    return result


def _run_plan(
    plan: Plan, path: Path, settings: Sequence[str], run: Run, until: str | None
) -> RunResult:
    """The result of the stages up to `until`; the recipe and the environment are written first."""
    document = plan.recipe.model_dump(exclude_none=True)
    write_text(run.folder / "recipe.toml", tomli_w.dumps(document))
    facts = {**environment(), "recipe_folder": str(plan.base.resolve())}
    write_json(run.folder / "environment.json", facts)
    if processes(plan.recipe) > 1 and launched() == 1:
        spawn = partial(train_in_processes, plan, path, settings, run, last_together(until))
        run = replace(run, spawn=spawn)
    return _conclude(run_stages(initial_state(plan, run), run, until), run, until)


def route(
    folder: Path | str,
    *,
    agreement: float | None = None,
    confidence: float | None = None,
    progress: Progress | None = None,
) -> RunResult:
    """Runs the recipe of the run in `folder` again with `[route]`, reusing all of its results.

    Args:
        agreement, confidence: see `edgekd.recipe.routing.Route`; by default those of the recipe.

    Raises:
        RecipeError: the folder is not of a finished run, or the task has no model cascade.
    """
    source = Path(folder).resolve()
    data = read_run(source)
    settings = [f"route.agreement={agreement!r}"] if agreement is not None else []
    settings += [f"route.confidence={confidence!r}"] if confidence is not None else []
    if not settings and "route" not in data.recipe:
        settings = [f"route.agreement={Route().agreement}"]
    base = Path(data.environment.get("recipe_folder", source))
    return run(
        source / "recipe.toml", source.parents[1], settings=settings, base=base, progress=progress
    )


def _draw_report(run: Run) -> None:
    """Draws `report.html`, or reports why it cannot be drawn; the run keeps its verdict.

    Another process draws it: the renderer is a browser engine in C++, which ends its process when
    it runs out of memory.
    """
    argv = [sys.executable, "-m", "edgekd.cli", "report", str(run.folder)]
    line = None
    try:
        absent = missing(("vl_convert",), extra="report")
        if absent is not None:
            line = f"no report.html: {absent.fix}"
        else:
            done = run_process(argv, timeout_s=REPORT_S)
            if done.code is None:
                line = _not_drawn(run, f"it takes more than {REPORT_S:.0f} s")
            elif done.code:
                line = _not_drawn(run, f"exit code {done.code}: {done.last_lines}")
    except Exception as error:  # noqa: BLE001  the results are written, whatever this one is
        line = _not_drawn(run, f"{type(error).__name__}: {error}")
    if line is not None:
        with suppress(OSError):  # The log may be what cannot be written.
            run.progress("report", line)


def _not_drawn(run: Run, reason: str) -> str:
    return (
        f"the report is not drawn ({' '.join(reason.split())}); all results are written. Draw it "
        f"again with: edgekd report {shlex.quote(str(run.folder))}"
    )


def _write_summaries(run: Run, result: RunResult) -> None:
    """Writes the files for CI systems: `junit.xml` and `summary.md`."""
    write_text(run.folder / "junit.xml", junit(result.name, cases(result.rows, result.required)))
    ships = {name: (choice.candidate or "", choice.why) for name, choice in result.chosen.items()}
    text = summary(result.name, result.metric, result.rows, ships)
    write_text(run.folder / "summary.md", text)


REPORT_S = 600.0
"""The time limit of drawing a report, which takes seconds."""

TOGETHER = ("train", "distill", "prune", "quantize")
"""The stages that several processes run together."""


def last_together(until: str | None) -> str:
    """The last stage that several processes run together, in a run to the stage `until`."""
    names = list(STAGES)
    planned = names[: names.index(until) + 1] if until else names
    return next(name for name in reversed(planned) if name in TOGETHER)


def _take_part(plan: Plan, out: Path, until: str | None) -> RunResult:
    """The result in a process other than the first, which ends after the training stages."""
    run = helper_run(out, plan.recipe)
    try:
        last = last_together(until)
        return _conclude(run_stages(initial_state(plan, run), run, last), run, last)
    finally:
        leave()
        shutil.rmtree(run.folder)


def run_stages(state: PipelineState, run: Run, until: str | None) -> PipelineState:
    """`state` after the stages up to `until`, or after all stages if that is None."""
    for name, stage in STAGES.items():
        if applies(name, state.recipe):
            run.progress(name, "")
            begin_s = time.monotonic()
            state = stage.step(state, run)
            seconds = time.monotonic() - begin_s
            state = replace(state, seconds={**state.seconds, name: seconds})
        if name == last_together(until):
            leave()
        if name == until:
            break
    return state


def _conclude(state: PipelineState, run: Run, until: str | None) -> RunResult:
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
        folder=run.folder,
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
        reused=tuple(run.reused or ()),
        until=until,
        required=required,
        routes=state.routes,
        seconds=state.seconds,
        bundles=state.bundles,
    )


def initial_state(plan: Plan, run: Run) -> PipelineState:
    """The state before the first stage, with data and networks loaded and checked."""
    recipe, base = plan.recipe, plan.base
    run.progress("load", "data")
    loader = resolve(recipe.data.load, base=base, at="data.load")
    # A loader with random splits then always returns the same ones.
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
    run.progress("load", "networks")
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
    """The teachers of a recipe, each with its weight and its key."""
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
    """The untrained student; each `number` gives other random weights."""
    entry = plan.recipe.student
    if not entry.derived:
        return _network(entry, data, plan, "student", plan.recipe.seed + number)
    teacher = teachers[0][0]
    if not isinstance(teacher, Network):
        raise RecipeError(
            Fault(
                what="A student cannot be derived from a black-box teacher.",
                at="student.load",
                got='"teacher", of which only the outputs are known',
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
    # Seeded for each network, so that the student does not depend on the teacher.
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
