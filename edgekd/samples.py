"""Inputs, shapes and budgets as the command line gives them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import torch
from torch import Tensor

from edgekd.data import Inputs, single
from edgekd.errors import Fault, RecipeError, listed, nearest
from edgekd.target import Budget

SHAPE = re.compile(r"^(?:(?P<name>\w+)=)?(?P<shape>\d+(?:x\d+)*)(?::(?P<dtype>\w+))?$")
DTYPES = ("float32", "float64", "float16", "int64", "int32", "uint8", "bool")


def read_samples(path: Path, names: Sequence[str] | None = None) -> list[Inputs]:
    """The samples in `path`, a batch of one each: tensors by input name, samples first.

    Args:
        names: what the inputs are called, where that is known.

    Raises:
        RecipeError: the file cannot be read, is empty, its tensors differ in length, or have
            other names.
    """
    try:
        tensors = _read(path)
        counts = {name: len(tensor) for name, tensor in tensors.items()}
        if not counts or not min(counts.values()):
            raise ValueError("there is no sample in it")
        if len(set(counts.values())) > 1:
            raise ValueError(f"its tensors differ in length: {counts}")
    except Exception as error:
        raise RecipeError(
            Fault(
                what=f"{path} holds no samples.",
                at=str(path),
                got=f"{type(error).__name__}: {error}",
                expected="a .safetensors or .npz with one array per input name, samples first",
                fix="write it with safetensors.torch.save_file({'image': images}, path)",
            )
        ) from error
    absent = [name for name in names or () if name not in tensors]
    if absent:
        raise RecipeError(
            Fault(
                what=f"The samples in {path} are not of these inputs.",
                at=f"{path}, {absent[0]}",
                got=f"tensors {listed(tensors)}",
                expected=f"tensors {listed(names or ())}",
                fix=f"write it with safetensors.torch.save_file({{'{absent[0]}': samples}}, path)",
            )
        )
    return single({name: tensors[name] for name in names or tensors})


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".npz":
        import numpy as np

        with np.load(path, allow_pickle=False) as file:
            return {name: torch.from_numpy(file[name]) for name in file.files}
    from safetensors.torch import load_file

    return load_file(path)


def parse_example(words: Sequence[str]) -> dict[str, Tensor] | tuple[Tensor, ...] | None:
    """Zeros of the shapes in `words`: "1x3x32x32", "image=1x3x32x32", "ids=1x16:int64".

    By name if all have one, else in order; None if there is no word.

    Raises:
        RecipeError: a word is not a shape.
    """
    named: dict[str, Tensor] = {}
    ordered: list[Tensor] = []
    for word in words:
        match = SHAPE.match(word)
        dtype = (match["dtype"] or "float32") if match else ""
        if match is None or dtype not in DTYPES:
            raise RecipeError(
                Fault(
                    what=f"{word!r} is not the shape of an input.",
                    at="--example",
                    got=repr(word),
                    expected=f"NAME=SIZExSIZE:DTYPE, with a dtype of {listed(DTYPES)}",
                    fix="write it like --example image=1x3x32x32",
                )
            )
        tensor = torch.zeros(
            [int(size) for size in match["shape"].split("x")], dtype=getattr(torch, dtype)
        )
        ordered.append(tensor)
        if match["name"]:
            named[match["name"]] = tensor
    if len(named) == len(words):
        return named or None
    return tuple(ordered)


def parse_budget(words: Sequence[str]) -> Budget:
    """The budget in `words`, "latency_p90_ms=5" each.

    Raises:
        RecipeError: a word is not KEY=NUMBER, or the key is unknown.
    """
    known = [entry.name for entry in fields(Budget)]
    limits: dict[str, float] = {}
    for word in words:
        key, _, value = word.partition("=")
        close = nearest(key, known)
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if key not in known or not 0 < number < math.inf:
            raise RecipeError(
                Fault(
                    what=f"{word!r} is not a limit of a budget.",
                    at="--budget",
                    got=repr(word),
                    expected=f"KEY=NUMBER with a key of {listed(known)} and a number over 0",
                    fix=f"did you mean {close!r}?"
                    if close and close != key
                    else f"write it like --budget {close or 'latency_p90_ms'}=5",
                )
            )
        limits[key] = int(number) if key.endswith(("_bytes", "instructions")) else number
    return Budget(**limits)  # type: ignore[arg-type]
