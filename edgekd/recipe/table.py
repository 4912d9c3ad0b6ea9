"""What every table of a recipe is made of, and the names that one may use."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo
from pydantic_core import PydanticCustomError

from edgekd.errors import listed, nearest


@dataclass(frozen=True)
class Known:
    """The names a recipe may use, which rooms above this file hold.

    Attributes:
        stages: the stages there are; a section without its stage is refused, not ignored.
        losses: the methods of `distill.losses`, each with its options, and whether it needs them.
        tasks: the tasks, each with its metrics, the one it has by default first, and whether each
            is a share from 0 to 1.
        targets: the shipped target profiles.
        calibrations: the shipped calibration sets.
        bundles: the bundle kinds.
    """

    stages: Collection[str] = ()
    losses: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)
    tasks: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)
    targets: Collection[str] = ()
    calibrations: Collection[str] = ()
    bundles: Collection[str] = ()


def one_of(names: str, *, or_path: bool = False) -> AfterValidator:
    """Checks a string against a field of `Known`, where the validation is given one."""

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


class Part(BaseModel):
    """A table of the recipe: no key is ignored, no value is coerced."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


Frac = Annotated[float, Field(ge=0, le=1)]
