"""The part of a recipe that says in which precisions files are tried, and how they are sought."""

from __future__ import annotations

import typing
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo

from edgekd.part import Part, one_of, refused
from edgekd.scheme import SCHEMES

SchemeName = Literal["fp32", "fp16", "bf16", "int8", "int8-dynamic", "int8-weights", "int8-int16",
                     "int4-weights", "palettized"]  # fmt: skip


def _no_training(epochs: int, info: ValidationInfo) -> int:
    if epochs and info.context and "train-quantized" not in info.context.stages:
        raise refused("quantize.qat_epochs", "0")
    return epochs


def _float32() -> list[SchemeName]:
    return ["fp32"]


class Quantize(Part):
    """The precisions that are tried."""

    schemes: Annotated[list[SchemeName], Field(min_length=1)] = Field(default_factory=_float32)
    search: Annotated[
        Literal["auto", "first"],
        Field(description="the methods of a scheme that suit the student, or the first of them"),
    ] = "auto"
    candidates: Annotated[int, Field(ge=1, description="of a target, at most")] = 12
    calibration: Annotated[str, one_of("calibrations", or_path=True)] = "random-128"
    qat_epochs: Annotated[int, Field(ge=0), AfterValidator(_no_training)] = 0
    sensitivity: Annotated[
        bool, Field(description="records of each quantized file what it did to each layer")
    ] = False


assert set(typing.get_args(SchemeName)) == set(SCHEMES)
