"""The base model of the tables of a recipe, and the names that a recipe may use."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo
from pydantic_core import PydanticCustomError

from edgekd.errors import Fault, listed, nearest


@dataclass(frozen=True)
class Known:
    """The names that a recipe may use, which rooms above this one define.

    Attributes:
        stages: the stages; a table without its stage is refused, not ignored.
        losses: the methods of `distill.losses`, each with its options and whether they are
            required; None if the options are unknown.
        tasks: the tasks, each with its metrics, the default first, and whether each metric is a
            fraction from 0 to 1.
        targets: the shipped target profiles.
        calibrations: the shipped calibration sets.
        bundles: the bundle kinds.
        folder: the folder that references to Python are relative to.
        complete: adds the names that a document refers to by file, given the document and its name
            in messages; returns the faults of references that cannot be resolved too.
    """

    stages: Collection[str] = ()
    losses: Mapping[str, Mapping[str, bool] | None] = field(default_factory=dict)
    tasks: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)
    targets: Collection[str] = ()
    calibrations: Collection[str] = ()
    bundles: Collection[str] = ()
    folder: Path = Path()
    complete: Callable[[Known, Mapping[str, Any], str], tuple[Known, list[Fault]]] | None = None


def one_of(names: str, *, or_path: bool = False) -> AfterValidator:
    """A validator that a string is in the field `names` of `Known`, if the context has one."""

    def check(value: str, info: ValidationInfo) -> str:
        known = getattr(info.context, names) if info.context else None
        if known is None or value in known or (or_path and value.endswith(".toml")):
            return value
        raise unknown_name(value, list(known))

    return AfterValidator(check)


def unknown_name(value: str, known: list[str]) -> PydanticCustomError:
    return PydanticCustomError(
        "unknown_name",
        "one of {allowed}",
        {"allowed": listed(sorted(known)), "nearest": nearest(value, known)},
    )


def refused(key: str, allowed: str) -> PydanticCustomError:
    return PydanticCustomError("no_stage", "{allowed}", {"allowed": allowed, "refused": key})


class Table(BaseModel):
    """A table of a recipe: no key is ignored, no value is coerced."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


Frac = Annotated[float, Field(ge=0, le=1)]
