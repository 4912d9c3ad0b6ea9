"""Every value of a recipe with its origin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from edgekd.artifacts.target import load_target
from edgekd.recipe.load import load_recipe
from edgekd.recipe.table import Known
from edgekd.system.toml import read_toml

PROFILE = ("format", "schemes", "machine", "device", "threads", "accelerator", "channel_multiple")
"""The fields of a target profile; a recipe may override some of them."""


@dataclass(frozen=True)
class Value:
    """One value of a run.

    Attributes:
        key: its path, as `--set` takes it.
        origin: "recipe", "--set", "default" or the target profile.
        meaning: the description of the key.
    """

    key: str
    value: Any
    origin: str
    meaning: str = ""


def explain(path: Path, settings: Sequence[str] = (), known: Known | None = None) -> list[Value]:
    """The values of the recipe in `path`, in the order of its sections.

    Raises:
        RecipeError: the recipe is invalid; the error lists all faults.
    """
    recipe = load_recipe(path, known, settings)
    written = read_toml(path)
    overridden = {setting.partition("=")[0] for setting in settings}
    values = []
    for key, value, meaning in _leaves(recipe, ()):
        name = ".".join(map(str, key))
        if any(name == each or name.startswith(f"{each}.") for each in overridden):
            origin = "--set"
        else:
            origin = "recipe" if _has(written, key) else "default"
        values.append(Value(name, value, origin, meaning))
    for number, entry in enumerate(recipe.targets):
        target = load_target(entry.name, path.parent)
        for field in PROFILE:
            if getattr(entry, field, None) is None:
                name, origin = f"targets.{number}.{field}", f"profile {target.name}"
                values.append(Value(name, getattr(target, field), origin))
    # The profile's value replaces the empty default of the recipe's target.
    profiled = {value.key for value in values if value.origin.startswith("profile")}
    return [
        value for value in values if value.key not in profiled or value.origin.startswith("profile")
    ]


def _leaves(
    value: Any, path: tuple[str | int, ...], meaning: str = ""
) -> Iterator[tuple[tuple[str | int, ...], Any, str]]:
    if isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            yield from _leaves(getattr(value, name), (*path, name), field.description or "")
        for name, each in (value.model_extra or {}).items():
            yield (*path, name), each, ""
    elif isinstance(value, list) and value and isinstance(value[0], BaseModel):
        for number, each in enumerate(value):
            yield from _leaves(each, (*path, number), meaning)
    elif isinstance(value, dict) and value:
        for name, each in value.items():
            yield from _leaves(each, (*path, name), meaning)
    else:
        yield path, value, meaning


def _has(document: Any, path: tuple[str | int, ...]) -> bool:
    for step in path:
        if isinstance(document, list):
            document = dict(enumerate(document))
        if not isinstance(document, dict) or step not in document:
            return False
        document = document[step]
    return True
