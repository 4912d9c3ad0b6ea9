"""Golden vectors: real inputs, what a file makes of them, how far off another machine may be."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgekd.artifacts.quantization_params import QuantizationParams
from edgekd.artifacts.scheme import SCHEMES
from edgekd.bundles.manifest import Expected, Golden, Model
from edgekd.data import Inputs
from edgekd.errors import Fault

COUNT = 8
"""Inputs of a bundle: as many as a phone runs without anyone waiting."""


def tolerance(scheme: str, outputs: Tensor, step: QuantizationParams | None = None) -> float:
    """How far a value of `outputs` may lie off on another machine, as the file gives it.

    Args:
        step: of whole numbers that stand for real ones: it is then a count of steps, one or more.

    Runtimes of one file differ by the order of their sums, and in whole numbers by a step here and
    there: a share of the largest value, three times the noise that the scheme's floor of SQNR
    stands for, at most a tenth.
    """
    if not outputs.is_floating_point() and step is None:
        return 0.0
    frac = min(0.1, 3 * 10 ** (-SCHEMES[scheme].sqnr_floor_db / 20))
    if step is not None:
        far = (outputs.double() - step.zero_point).abs()
        return float(max(1, math.ceil(frac * float(far.max())))) if far.numel() else 0.0
    finite = outputs[outputs.isfinite()].abs()
    return frac * float(finite.max()) if finite.numel() else 0.0


def write(
    folder: Path,
    inputs: Inputs,
    outputs: Mapping[str, Tensor],
    model: str,
    scheme: str,
    steps: Mapping[str, QuantizationParams] | None = None,
) -> Golden:
    """Writes the vectors of the model of target `model` into the bundle `folder`.

    Args:
        inputs, outputs: as the model takes and gives them, of its types and layout.
        steps: by name, what whole numbers stand for.
    """
    count = len(next(iter(inputs.values())))
    given, expected = {}, {}
    for number, (name, values) in enumerate(inputs.items()):
        # Models that take the same share the file.
        data = _bytes(values)
        given[name] = f"golden/inputs/{number}-{hashlib.sha256(data).hexdigest()[:8]}.bin"
        _write(folder / given[name], data)
    for number, (name, values) in enumerate(outputs.items()):
        path = f"golden/{model}/{number}.bin"
        far = tolerance(scheme, values, (steps or {}).get(name))
        expected[name] = Expected(path=path, max_abs_error=far)
        _write(folder / path, _bytes(values))
    return Golden(count=count, inputs=given, outputs=expected)


def _bytes(values: Tensor) -> bytes:
    array = values.contiguous().numpy()
    return array.astype(array.dtype.newbyteorder("<")).tobytes()


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def read_inputs(folder: Path, model: Model) -> Inputs:
    """The inputs of a model's vectors.

    Raises:
        ValueError: a file does not hold what the manifest says.
    """
    return {
        spec.name: _read(folder / model.golden.inputs[spec.name], spec.dtype, spec.shape, model)
        for spec in model.inputs
    }


def _read(path: Path, dtype: str, shape: list[int | None], model: Model) -> Tensor:
    flat = np.frombuffer(path.read_bytes(), np.dtype(dtype).newbyteorder("<"))
    # Of free sizes, the one that is not the batch follows from the file.
    rest = [-1 if size is None else size for size in shape[1:]]
    made = flat.astype(np.dtype(dtype)).reshape(model.golden.count, *rest)
    return torch.from_numpy(made)


def differences(folder: Path, model: Model, outputs: Mapping[str, Tensor]) -> list[Fault]:
    """What in `outputs`, of the model's golden inputs, is not as it was when it was bundled."""
    faults = []
    for spec in model.outputs:
        expected = model.golden.outputs[spec.name]
        at = f"{model.target}, output {spec.name}, {expected.path}"
        values = outputs.get(spec.name)
        if values is None:
            faults.append(_fault(at, "no such output", spec.name))
            continue
        wanted = _read(folder / expected.path, spec.dtype, spec.shape, model)
        if values.shape != wanted.shape:
            faults.append(_fault(at, f"shape {tuple(values.shape)}", str(tuple(wanted.shape))))
            continue
        off = (values.double() - wanted.double()).abs()
        # What is no number, or masked by one that is infinite, must be the same.
        off[(values == wanted) | (values.isnan() & wanted.isnan())] = 0.0
        worst = float(off.max()) if off.numel() else 0.0
        if not worst <= expected.max_abs_error:  # also where it is no number
            rule = f"at most {expected.max_abs_error:g} off what it gave when it was bundled"
            faults.append(_fault(at, f"{worst:g} off", rule))
    return faults


def _fault(at: str, got: str, expected: str) -> Fault:
    return Fault(
        what="A model does not give what it gave when it was bundled.",
        at=at,
        got=got,
        expected=expected,
        fix="use the runtime's version that the manifest's evidence names, or bundle it again",
    )
