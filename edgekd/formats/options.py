"""The options of one export, as a value that every room passes on whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from edgekd.artifacts.quantization_params import Io

RENAMED_METHODS = {
    "half-quadratic": "hqq",
    "slow-correction": "accurate-bias-correction",
    "min-max-uncorrected": "no-bias-correction",
    "transformer-unsmoothed": "transformer-no-smooth-quant",
}
"""Quantization methods that had another name before, which is accepted."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """How a network is written as a file.

    Attributes:
        scheme: the precision, of the format's `SCHEMES`.
        method: the quantization method, of the format's `METHODS[scheme]`; None: the first that
            suits the network. A name of `RENAMED_METHODS` becomes the new one.
        excluded_operators: operators of the file that stay in float, by the names that the
            format's `layers` gives.
        reduce_range: whether int8 weights use 7 of their 8 bits, which no processor saturates;
            see `edgekd.formats.method_ranking.needs_reduced_range`.
        opset: the version of the file's operators, where the format has `OPSETS`; None: the
            converter's default.
        channels_last: whether the file takes images as NHWC; None: the format's default.
        io: the data type of the file's inputs and outputs where the network has float32.
    """

    scheme: str = "fp32"
    method: str | None = None
    excluded_operators: tuple[str, ...] = ()
    reduce_range: bool = True
    opset: int | None = None
    channels_last: bool | None = None
    io: Io = "float32"

    def __post_init__(self) -> None:
        method = RENAMED_METHODS.get(self.method or "", self.method)
        object.__setattr__(self, "method", method)
        object.__setattr__(self, "excluded_operators", tuple(self.excluded_operators))


class ExportKeywords(TypedDict, total=False):
    """The fields of `ExportOptions` that `edgekd.export` takes as keywords beside the scheme."""

    method: str | None
    excluded_operators: Sequence[str]
    reduce_range: bool
    opset: int | None
    channels_last: bool | None
    io: Io
