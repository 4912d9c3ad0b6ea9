"""Parses the shapes of examples and the limits of budgets."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import fields

import torch
from torch import Tensor

from edgekd.artifacts.target import Budget
from edgekd.errors import Fault, RecipeError, listed, nearest

SHAPE = re.compile(r"^(?:(?P<name>\w+)=)?(?P<shape>\d{1,9}(?:x\d{1,9})*)(?::(?P<dtype>\w+))?$")
DTYPES = ("float32", "float64", "float16", "int64", "int32", "uint8", "bool")


def parse_example(args: Sequence[str]) -> dict[str, Tensor] | tuple[Tensor, ...] | None:
    """Zeros of the shapes in `args`: "1x3x32x32", "image=1x3x32x32", "ids=1x16:int64".

    Returns:
        The tensors by name if every shape has a name, else in order; None without a shape.

    Raises:
        RecipeError: an argument is not a shape.
    """
    named: dict[str, Tensor] = {}
    ordered: list[Tensor] = []
    for text in args:
        match = SHAPE.match(text)
        dtype = (match["dtype"] or "float32") if match else ""
        if match is None or dtype not in DTYPES:
            raise RecipeError(
                Fault(
                    what=f"{text!r} is not the shape of an input.",
                    at="--example",
                    got=repr(text),
                    expected=f"NAME=SIZExSIZE:DTYPE, with a dtype of {listed(DTYPES)}",
                    fix="write it like --example image=1x3x32x32",
                )
            )
        try:
            shape = [int(size) for size in match["shape"].split("x")]
            tensor = torch.zeros(shape, dtype=getattr(torch, dtype))
        except (RuntimeError, MemoryError) as error:
            raise RecipeError(
                Fault(
                    what="The example of an input does not fit into memory.",
                    at="--example",
                    got=repr(text),
                    expected="an input of a size that the network takes",
                    fix="write it like --example image=1x3x32x32",
                )
            ) from error
        ordered.append(tensor)
        if match["name"]:
            named[match["name"]] = tensor
    if len(named) == len(args):
        return named or None
    return tuple(ordered)


def parse_budget(args: Sequence[str]) -> Budget:
    """The budget that `args` state, each as "latency_p90_ms=5".

    Raises:
        RecipeError: an argument is not KEY=NUMBER, or its key is unknown.
    """
    known = [entry.name for entry in fields(Budget)]
    limits: dict[str, float] = {}
    for text in args:
        key, _, value = text.partition("=")
        close = nearest(key, known)
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if key not in known or not 0 < number < math.inf:
            raise RecipeError(
                Fault(
                    what=f"{text!r} is not a limit of a budget.",
                    at="--budget",
                    got=repr(text),
                    expected=f"KEY=NUMBER with a key of {listed(known)} and a positive number",
                    fix=f"did you mean {close!r}?"
                    if close and close != key
                    else f"write it like --budget {close or 'latency_p90_ms'}=5",
                )
            )
        limits[key] = int(number) if key.endswith(("_bytes", "instructions")) else number
    return Budget(**limits)  # type: ignore[arg-type]
