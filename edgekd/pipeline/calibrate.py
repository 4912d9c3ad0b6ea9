"""Makes a calibration set from a recipe's data, with its exact samples beside it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tomli_w

from edgekd.calibration.calibration_set import CalibrationSet, check_calibration, load_calibration
from edgekd.calibration.frozen_samples import read_record
from edgekd.calibration.selection import current_name
from edgekd.errors import Fault, RecipeError
from edgekd.pipeline.candidates.calibrate import freeze
from edgekd.pipeline.plan import check
from edgekd.pipeline.run import initial_state, run_stages
from edgekd.pipeline.stages import fold
from edgekd.recipe.schema import Recipe
from edgekd.system.deprecation import with_deprecated
from edgekd.system.files import path_digest, write_text
from edgekd.system.notebook_progress import default_progress
from edgekd.system.progress import Progress
from edgekd.system.store import open_run

RECORDED = ("preprocessing", "looked_at")
"""Keys of a frozen set's record that its TOML file repeats."""


@dataclass(frozen=True)
class CalibrationOptions:
    """Which samples of a recipe's data become a calibration set, and where it is written.

    Attributes:
        name: the name of the set; SELECTION-COUNT if None.
        source: the split to select from: train, validation or unlabeled.
        count: the number of samples.
        selection: random, stratified, first, k-centre or highest-loss.
        licence: the licence of the samples.
        out: the folder of the set; `calibration` beside the recipe if None.
        overwrite: whether to replace a set of that name.
    """

    name: str | None = None
    source: str = "train"
    count: int = 128
    selection: str = "random"
    licence: str = "that of the recipe's data"
    out: Path | str | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class CalibrationResult:
    """A calibration set on disk.

    Attributes:
        path: its TOML file; a recipe names it as `calibration = "PATH"` in [quantize].
        samples: the file of its samples, beside it.
        calibration: the set itself.
        doubts: sentences on what may be wrong with the samples.
    """

    path: Path
    samples: Path
    calibration: CalibrationSet
    doubts: tuple[str, ...]


def calibrate(
    recipe: Path | str,
    options: CalibrationOptions | None = None,
    *,
    runs: Path | str = "runs",
    settings: Sequence[str] = (),
    progress: Progress | None = None,
    **deprecated: Any,
) -> CalibrationResult:
    """The calibration set `OUT/NAME.toml` of samples of the recipe's data, made now.

    A selection that uses a network trains it first, as a run does; a later run reuses it.

    Args:
        options: which samples, and where the set is written.
        runs: the folder of run folders.
        settings: "key.path=value" each, which override the recipe.
        progress: receives the progress; by default it is drawn under the cell of a notebook, and
            nowhere else.
        deprecated: fields of `CalibrationOptions`, with a warning; pass `options` instead.

    Raises:
        RecipeError: the recipe or an option is wrong, the set exists already, or the samples are
            unusable for calibration.
    """
    options = with_deprecated(
        options or CalibrationOptions(),
        deprecated,
        function="edgekd.calibrate",
        renamed={"replace_it": "overwrite"},
    )
    options = replace(options, selection=current_name(options.selection))
    path = Path(recipe)
    # The recipe may name the very set that is being made.
    plan = check(path, (*settings, "quantize.calibration=random-128"))
    name = options.name or f"{options.selection}-{options.count}"
    home = Path(options.out) if options.out is not None else path.parent / "calibration"
    card = home / f"{name}.toml"
    document = {key: getattr(options, key) for key in ("source", "count", "selection", "licence")}
    chosen = replace(check_calibration(document, card), frozen=None)
    if card.exists() and not options.overwrite:
        raise RecipeError(
            Fault(
                what=f"The calibration set {name!r} exists already.",
                at=str(card),
                got="a set that earlier runs may have used",
                expected="a new name",
                fix="give another --name, or --force to overwrite it",
            )
        )
    run = open_run(Path(runs), plan.recipe.name, plan.recipe.seed, progress or default_progress())
    state = initial_state(plan, run)
    until = _last_stage(plan.recipe, options.selection)
    if until is not None:
        state = run_stages(state, run, until)
    if until != "fold" and plan.recipe.export.embeds:
        state = fold.step(state, run)
    samples, doubts = freeze(state, run, replace(chosen, preprocessing=_preprocessing(plan.recipe)))
    record = read_record(samples.parent)
    document |= {key: record[key] for key in RECORDED if key in record}
    frozen = card.with_suffix(".safetensors")
    home.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(samples, frozen)
    write_text(card, tomli_w.dumps({**document, "sha256": path_digest(frozen)}))
    calibration = load_calibration(str(card.resolve()), path.parent)
    return CalibrationResult(card, frozen, calibration, tuple(doubts))


def _last_stage(recipe: Recipe, selection: str) -> str | None:
    """The stage that finishes the network which `selection` uses; None if it uses none."""
    if selection == "highest-loss":
        return "fold"
    if selection != "k-centre":
        return None
    return "train" if recipe.teacher is not None and not recipe.export.inputs else "fold"


def _preprocessing(recipe: Recipe) -> str:
    """The preprocessing of the samples, in words."""
    options = ", ".join(f"{key} = {value!r}" for key, value in recipe.data.options.items())
    text = f"that of {recipe.data.load}" + (f" with {options}" if options else "")
    if recipe.export.inputs:
        names = ", ".join(recipe.export.inputs)
        text += f"; for {names}, without the preprocessing that the recipe embeds in the model"
    return text
