"""The `[quantize]` table of a recipe."""

from __future__ import annotations

import typing
from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from edgekd.artifacts.scheme import SCHEMES
from edgekd.recipe.table import Table, one_of

SchemeName = Literal["fp32", "fp16", "bf16", "int8", "int8-dynamic", "int8-weights", "int8-int16",
                     "int4-weights", "palettized"]  # fmt: skip


def _float32() -> list[SchemeName]:
    return ["fp32"]


class Quantize(Table):
    """The schemes that are tried, and how quantized files are searched."""

    schemes: Annotated[
        list[SchemeName],
        Field(min_length=1, description="Schemes to try. A target tries those that it supports."),
    ] = Field(default_factory=_float32)
    search: Annotated[
        Literal["auto", "first"],
        Field(
            description="auto: every quantization method that suits the student, then "
            "accuracy recovery. first: one method per scheme."
        ),
    ] = "auto"
    candidates: Annotated[
        int,
        Field(
            ge=1,
            description="Largest number of quantized candidates per target; accuracy recovery "
            "adds at most as many.",
        ),
    ] = 12
    calibration: Annotated[
        str,
        one_of("calibrations", or_path=True),
        Field(description="Calibration set: a shipped name, or the path of a .toml file."),
    ] = "random-128"
    sensitivity: Annotated[
        bool,
        Field(
            description="Also record the quantization error of each layer of each quantized file."
        ),
    ] = False
    qat_epochs: Annotated[
        int,
        Field(
            ge=0,
            description="Epochs of quantization-aware training (QAT) to int8, if every other "
            "candidate failed; 0 turns it off.",
        ),
    ] = 0
    qat_learning_rate: Annotated[float, Field(gt=0, description="Peak learning rate of QAT.")] = (
        1e-3
    )
    qat_from: Annotated[
        Literal["float", "teacher", "both"],
        Field(
            description="Teacher of QAT: the student in float, which needs no labels, the "
            "teacher, or both."
        ),
    ] = "float"

    @model_validator(mode="after")
    def _refuse_keys_without_effect(self) -> Quantize:
        if self.qat_epochs and "int8" not in self.schemes:
            raise PydanticCustomError(
                "missing", 'the scheme "int8", which QAT trains for', {"key": "schemes"}
            )
        for key in ("qat_learning_rate", "qat_from"):
            if not self.qat_epochs and getattr(self, key) != type(self).model_fields[key].default:
                raise PydanticCustomError(
                    "unknown_key",
                    "{allowed}",
                    {
                        "key": key,
                        "allowed": "this key only with qat_epochs over 0",
                        "nearest": None,
                    },
                )
        return self


assert set(typing.get_args(SchemeName)) == set(SCHEMES)
