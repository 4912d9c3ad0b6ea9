"""Read `artifact.json`, the card beside a model file; somebody else may have written it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgekd.artifacts.scheme import SCHEMES
from edgekd.artifacts.signature import Signature
from edgekd.errors import Fault, RecipeError, listed
from edgekd.system.strict_json import read_json

LIMIT_ELEMENTS = 2**30
"""The most values of one example input, which a benchmark fills with random numbers."""


def _file_name(name: str) -> str:
    plain = name not in ("", ".", "..") and not set(name) & {"/", "\\", "\0"} and len(name) <= 255
    if not plain:
        raise ValueError("the name of a file beside the card")
    return name


def _scheme(name: str) -> str:
    if name not in SCHEMES:
        raise ValueError(f"one of {listed(SCHEMES)}")
    return name


def _size(shape: list[int | None]) -> list[int | None]:
    if math.prod(size or 1 for size in shape) > LIMIT_ELEMENTS:
        raise ValueError(f"a shape of at most {LIMIT_ELEMENTS:,} values")
    return shape


Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]
Shape = Annotated[list[Count | None], Field(max_length=64), AfterValidator(_size)]


class _Entry(BaseModel):
    """A table of the card: no value is coerced, and unknown keys are kept."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class _Tensor(_Entry):
    model_config = ConfigDict(extra="forbid")
    name: Annotated[str, Field(min_length=1)]
    shape: Shape
    dtype: Annotated[
        str, Field(pattern=r"^(bool|u?int(8|16|32|64)|bfloat16|float(16|32|64)|complex(64|128))$")
    ]
    layout: str | None = None
    meaning: str | None = None


class _Signature(_Entry):
    inputs: list[_Tensor]
    outputs: list[_Tensor]


class _Quantization(_Entry):
    model_config = ConfigDict(extra="forbid")
    scale: Annotated[float, Field(gt=0)]
    zero_point: int
    dtype: Literal["int8", "uint8", "int16", "uint16", "int32"]


class _Lineage(_Entry):
    """The keys of the lineage that commands read; there are more."""

    channels_last: list[str] = Field(default_factory=list)
    quantization: dict[str, _Quantization] = Field(default_factory=dict)
    example_shapes: dict[str, Shape] | None = None
    operators: dict[str, Count] = Field(default_factory=dict)
    transposes: Count | None = None
    quantized_weights_frac: float | None = None
    weights_in_float: list[str] | None = None
    method: str | None = None
    network_sha256: str | None = None


class _Card(_Entry):
    path: Annotated[str, AfterValidator(_file_name)]
    format: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    scheme: Annotated[str, AfterValidator(_scheme)] | None
    sha256: Sha256
    zipped_bytes: Count | None = None
    signature: _Signature | None
    lineage: _Lineage

    @model_validator(mode="after")
    def _example_of_every_input(self) -> _Card:
        shapes, signature = self.lineage.example_shapes, self.signature
        names = [tensor.name for tensor in signature.inputs] if signature else []
        if shapes and set(names) - set(shapes):
            raise ValueError("lineage.example_shapes: a shape of every input")
        if self.lineage.quantized_weights_frac is not None and not isinstance(
            self.lineage.weights_in_float, list
        ):
            raise ValueError("lineage.weights_in_float: a list of operators")
        return self


def read_card(path: Path) -> dict[str, Any]:
    """The card at `path`, every value that edgekd reads of its type.

    Raises:
        RecipeError: it cannot be read, or is not a card.
    """
    try:
        document: dict[str, Any] = read_json(path)
        _Card.model_validate(document)
    except ValidationError as error:
        detail = error.errors()[0]
        key = ".".join(map(str, detail["loc"])) or "the whole document"
        message = detail["msg"].removeprefix("Value error, ")
        raise RecipeError(_fault(path, f"{key}: {message}")) from None
    except (OSError, ValueError) as error:
        raise RecipeError(_fault(path, f"{type(error).__name__}: {error}")) from error
    return document


def card_signature(card: dict[str, Any]) -> Signature | None:
    """The signature in `card`, which `read_card` returned."""
    return Signature.from_json(card["signature"]) if card["signature"] else None


def _fault(path: Path, got: str) -> Fault:
    return Fault(
        what=f"{path} is not an artifact's card.",
        at=str(path),
        got=got,
        expected="the artifact.json that edgekd export writes",
        fix="export it again, or delete artifact.json to take the file as it is",
    )
