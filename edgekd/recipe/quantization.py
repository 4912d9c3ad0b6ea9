"""The part of a recipe that says in which precisions files are tried, and how they are sought."""

from __future__ import annotations

import typing
from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from edgekd.artifacts.scheme import SCHEMES
from edgekd.recipe.table import Part, one_of

SchemeName = Literal["fp32", "fp16", "bf16", "int8", "int8-dynamic", "int8-weights", "int8-int16",
                     "int4-weights", "palettized"]  # fmt: skip


def _float32() -> list[SchemeName]:
    return ["fp32"]


class Quantize(Part):
    """The precisions that are tried."""

    schemes: Annotated[
        list[SchemeName],
        Field(min_length=1, description="candidates; a target tries those that it takes"),
    ] = Field(default_factory=_float32)
    search: Annotated[
        Literal["auto", "first"],
        Field(description="the methods of a scheme that suit the student, or the first of them"),
    ] = "auto"
    candidates: Annotated[int, Field(ge=1, description="of a target, at most")] = 12
    calibration: Annotated[
        str,
        one_of("calibrations", or_path=True),
        Field(description="a set in calibration/, or the path of one"),
    ] = "random-128"
    sensitivity: Annotated[
        bool, Field(description="records of each quantized file what it did to each layer")
    ] = False
    qat_epochs: Annotated[
        int,
        Field(
            ge=0,
            description="in which the student learns to be rounded to int8, where all else missed",
        ),
    ] = 0
    qat_learning_rate: Annotated[float, Field(gt=0, description="at its largest")] = 1e-3
    qat_from: Annotated[
        Literal["float", "teacher", "both"],
        Field(description="who teaches it then: the student in float needs no label"),
    ] = "float"

    @model_validator(mode="after")
    def _training_is_asked_for(self) -> Quantize:
        if self.qat_epochs and "int8" not in self.schemes:
            raise PydanticCustomError(
                "missing", '"int8", which the student is trained for', {"key": "schemes"}
            )
        for key in ("qat_learning_rate", "qat_from"):
            if not self.qat_epochs and getattr(self, key) != type(self).model_fields[key].default:
                raise PydanticCustomError(
                    "unknown_key",
                    "{allowed}",
                    {"key": key, "allowed": "it only with qat_epochs", "nearest": None},
                )
        return self


assert set(typing.get_args(SchemeName)) == set(SCHEMES)
