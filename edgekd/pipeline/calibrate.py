"""A calibration set made of a recipe's data, with the very samples beside it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import tomli_w

from edgekd.calibration.calibration_set import CalibrationSet, check_calibration, load_calibration
from edgekd.calibration.frozen_samples import read_record
from edgekd.errors import Fault, RecipeError
from edgekd.pipeline.candidates.calibrate import freeze
from edgekd.pipeline.plan import check
from edgekd.pipeline.run import begin, fold
from edgekd.pipeline.stages import fold as fold_stage
from edgekd.recipe.schema import Recipe
from edgekd.system.files import path_digest, write_text
from edgekd.system.notebook_progress import default_progress
from edgekd.system.progress import Progress
from edgekd.system.store import open_run


@dataclass(frozen=True)
class MadeSet:
    """A calibration set on disk.

    Attributes:
        path: its TOML file; a recipe names it as `calibration = "PATH"` in [quantize].
        samples: the file of its samples, beside it.
        doubts: what of the samples is doubtful, in sentences.
    """

    path: Path
    samples: Path
    calibration: CalibrationSet
    doubts: tuple[str, ...]


def calibrate(
    recipe: Path | str,
    *,
    name: str | None = None,
    source: str = "train",
    count: int = 128,
    selection: str = "random",
    licence: str = "that of the recipe's data",
    out: Path | str | None = None,
    runs: Path | str = "runs",
    settings: Sequence[str] = (),
    replace_it: bool = False,
    progress: Progress | None = None,
) -> MadeSet:
    """The calibration set `out/NAME.toml` of samples of the recipe's data, made now.

    Selections that look at a network have it trained first, as a run would, which then uses it.

    Args:
        name: of the set; SELECTION-COUNT without it.
        source: the split: train, validation or unlabeled.
        selection: random, stratified, first, k-centre or worst-loss.
        out: the folder; `calibration` beside the recipe without it.
        runs: where run folders go.
        replace_it: whether a set of that name may go.

    Raises:
        RecipeError: the recipe or a choice is wrong, there is such a set already, or nothing can
            be measured on the samples.
    """
    path = Path(recipe)
    # The recipe may name the very set that is being made.
    plan = check(path, (*settings, "quantize.calibration=random-128"))
    name = name or f"{selection}-{count}"
    place = (Path(out) if out is not None else path.parent / "calibration") / f"{name}.toml"
    document = {"source": source, "count": count, "selection": selection, "licence": licence}
    chosen = replace(check_calibration(document, place), frozen=None)
    if place.exists() and not replace_it:
        raise RecipeError(
            Fault(
                what="There is a calibration set of this name.",
                at=str(place),
                got="a set that runs may have been made with",
                expected="a name of its own for each set",
                fix="give another --name, or --force to write over it",
            )
        )
    run = open_run(Path(runs), plan.recipe.name, plan.recipe.seed, progress or default_progress())
    state = begin(plan, run)
    until = _needed(plan.recipe, selection)
    if until is not None:
        state = fold(state, run, until)
    if until != "fold" and plan.recipe.export.embeds:
        state = fold_stage.step(state, run)
    samples, doubtful = freeze(state, run, replace(chosen, preprocessing=_preparation(plan.recipe)))
    document |= {key: value for key, value in read_record(samples.parent).items() if key in KEPT}
    frozen = place.with_suffix(".safetensors")
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(samples, frozen)
    write_text(place, tomli_w.dumps({**document, "sha256": path_digest(frozen)}))
    made = load_calibration(str(place.resolve()), path.parent)
    return MadeSet(place, frozen, made, tuple(doubtful))


KEPT = ("preprocessing", "looked_at")


def _needed(recipe: Recipe, selection: str) -> str | None:
    """The last stage before the network that `selection` looks at is what it will be."""
    if selection == "worst-loss":
        return "fold"
    if selection != "k-centre":
        return None
    return "train" if recipe.teacher is not None and not recipe.export.inputs else "fold"


def _preparation(recipe: Recipe) -> str:
    """What was done to the raw data before the samples were taken, in words."""
    options = ", ".join(f"{key} = {value!r}" for key, value in recipe.data.options.items())
    done = f"that of {recipe.data.load}" + (f" with {options}" if options else "")
    if recipe.export.inputs:
        done += f"; of {', '.join(recipe.export.inputs)} without what the recipe folds into files"
    return done
