"""Reads a recipe from a TOML file, with overrides, and reports all of its faults at once."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from pydantic import (
    ValidationError,
)

from edgekd.errors import Fault, RecipeError
from edgekd.recipe.schema import Recipe
from edgekd.recipe.table import Known
from edgekd.recipe.validation import validation_faults
from edgekd.system.toml import parse_value, read_toml


def load_recipe(
    path: Path | str, known: Known | None = None, settings: Collection[str] = ()
) -> Recipe:
    """The recipe in `path`, with `settings` ("key.path=value" each) put over it.

    Args:
        known: the names it may use; without it, names are not checked.

    Raises:
        RecipeError: the file cannot be read, or anything in it is wrong; all faults are told.
    """
    document = read_toml(Path(path))
    for setting in settings:
        _put(document, setting)
    return parse_recipe(document, str(path), known)


def parse_recipe(document: dict[str, Any], source: str, known: Known | None = None) -> Recipe:
    """The recipe that `document` holds; `source` is its name in messages.

    Raises:
        RecipeError: anything in it is wrong; all faults are told.
    """
    faults: list[Fault] = []
    if known is not None and known.complete is not None:
        known, faults = known.complete(known, document, source)
    try:
        recipe = Recipe.model_validate(document, context=known)
    except ValidationError as error:
        faults += validation_faults(error, Recipe, document, source)
        raise RecipeError(*faults) from None
    if faults:
        raise RecipeError(*faults)
    return recipe


def _put(document: dict[str, Any], setting: str) -> None:
    """Puts "distill.epochs=3" or "targets.0.prefer=size" into `document`."""
    key, equals, text = setting.partition("=")
    steps = key.split(".")
    place: Any = document
    try:
        if not equals or not all(steps):
            raise KeyError(key)
        for step in steps[:-1]:
            place = place[int(step)] if isinstance(place, list) else place.setdefault(step, {})
        if isinstance(place, list):
            place[int(steps[-1])] = parse_value(text)
        else:
            place[steps[-1]] = parse_value(text)
    except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
        raise RecipeError(
            Fault(
                what="A setting cannot be put into the recipe.",
                at=f"--set {setting}",
                got=repr(setting),
                expected="KEY=VALUE with a key path such as distill.epochs or targets.0.prefer",
                fix="write it like --set distill.epochs=3",
            )
        ) from error
