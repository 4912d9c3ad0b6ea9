"""Reads a recipe from a TOML file, with overrides, and reports all its faults at once."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgekd.errors import Fault, RecipeError
from edgekd.recipe.schema import Recipe
from edgekd.recipe.table import Known
from edgekd.recipe.validation import validation_faults
from edgekd.system.toml import parse_value, read_toml


def load_recipe(
    path: Path | str, known: Known | None = None, settings: Collection[str] = ()
) -> Recipe:
    """Loads the recipe at `path`, with the overrides `settings`, each as "key.path=value".

    Args:
        known: the names that the recipe may use; None skips that check.

    Raises:
        RecipeError: the file cannot be read or is invalid; the error lists all faults.
    """
    document = read_toml(Path(path))
    for setting in settings:
        _apply(document, setting)
    return parse_recipe(document, str(path), known)


def parse_recipe(document: dict[str, Any], source: str, known: Known | None = None) -> Recipe:
    """The recipe in `document`; `source` is its name in messages.

    Raises:
        RecipeError: the document is invalid; the error lists all faults.
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


def _apply(document: dict[str, Any], setting: str) -> None:
    """Applies an override such as "distill.epochs=3" or "targets.0.prefer=size"."""
    key, equals, text = setting.partition("=")
    steps = key.split(".")
    table: Any = document
    try:
        if not equals or not all(steps):
            raise KeyError(key)
        for step in steps[:-1]:
            table = table[int(step)] if isinstance(table, list) else table.setdefault(step, {})
        if isinstance(table, list):
            table[int(steps[-1])] = parse_value(text)
        else:
            table[steps[-1]] = parse_value(text)
    except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
        raise RecipeError(
            Fault(
                what="A setting cannot be applied to the recipe.",
                at=f"--set {setting}",
                got=repr(setting),
                expected="KEY=VALUE with a path such as distill.epochs or targets.0.prefer as KEY",
                fix="write it like --set distill.epochs=3",
            )
        ) from error
