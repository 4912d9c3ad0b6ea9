"""Golden vectors: real inputs, a model's outputs, and their tolerance on other machines."""

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
"""Samples in a bundle: few enough to run quickly on a phone."""


def tolerance(
    scheme: str, outputs: Tensor, quantization: QuantizationParams | None = None
) -> float:
    """The largest allowed deviation of a value of `outputs` on another machine.

    Args:
        quantization: scale and zero point of integer outputs; the tolerance is then in integer
            steps, at least one.

    Runtimes sum in different orders, and their integers may differ by a step. The tolerance is a
    share of the largest value: three times the noise of the scheme's SQNR floor, at most a tenth.
    """
    if not outputs.is_floating_point() and quantization is None:
        return 0.0
    frac = min(0.1, 3 * 10 ** (-SCHEMES[scheme].sqnr_floor_db / 20))
    if quantization is not None:
        steps = (outputs.double() - quantization.zero_point).abs()
        return float(max(1, math.ceil(frac * float(steps.max())))) if steps.numel() else 0.0
    finite = outputs[outputs.isfinite()].abs()
    return frac * float(finite.max()) if finite.numel() else 0.0


def write(
    folder: Path,
    inputs: Inputs,
    outputs: Mapping[str, Tensor],
    model: str,
    scheme: str,
    quantization: Mapping[str, QuantizationParams] | None = None,
) -> Golden:
    """Write the golden vectors of the model of target `model` into the bundle `folder`.

    Args:
        inputs, outputs: in the model's own dtypes and layout.
        quantization: scale and zero point of integer tensors, by name.
    """
    count = len(next(iter(inputs.values())))
    input_files, expected = {}, {}
    for number, (name, values) in enumerate(inputs.items()):
        # Models with the same inputs share the file.
        data = _bytes(values)
        input_files[name] = f"golden/inputs/{number}-{hashlib.sha256(data).hexdigest()[:8]}.bin"
        _write(folder / input_files[name], data)
    for number, (name, values) in enumerate(outputs.items()):
        path = f"golden/{model}/{number}.bin"
        limit = tolerance(scheme, values, (quantization or {}).get(name))
        expected[name] = Expected(path=path, max_abs_error=limit)
        _write(folder / path, _bytes(values))
    return Golden(count=count, inputs=input_files, outputs=expected)


def _bytes(values: Tensor) -> bytes:
    array = values.contiguous().numpy()
    return array.astype(array.dtype.newbyteorder("<")).tobytes()


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def read_inputs(folder: Path, model: Model) -> Inputs:
    """Read the inputs of a model's golden vectors.

    Raises:
        ValueError: the size of a file does not match the manifest.
    """
    return {
        spec.name: _read(folder / model.golden.inputs[spec.name], spec.dtype, spec.shape, model)
        for spec in model.inputs
    }


def _read(path: Path, dtype: str, shape: list[int | None], model: Model) -> Tensor:
    flat = np.frombuffer(path.read_bytes(), np.dtype(dtype).newbyteorder("<"))
    # A dynamic dimension other than the batch follows from the size of the file.
    rest = [-1 if size is None else size for size in shape[1:]]
    array = flat.astype(np.dtype(dtype)).reshape(model.golden.count, *rest)
    return torch.from_numpy(array)


def differences(folder: Path, model: Model, outputs: Mapping[str, Tensor]) -> list[Fault]:
    """The differences of `outputs` from the model's golden outputs, beyond the tolerance."""
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
        errors = (values.double() - wanted.double()).abs()
        # NaNs and infinities must be the same.
        errors[(values == wanted) | (values.isnan() & wanted.isnan())] = 0.0
        worst = float(errors.max()) if errors.numel() else 0.0
        if not worst <= expected.max_abs_error:  # True for NaN, too.
            rule = f"within {expected.max_abs_error:g} of the golden outputs"
            faults.append(_fault(at, f"an error of {worst:g}", rule))
    return faults


def _fault(at: str, got: str, expected: str) -> Fault:
    return Fault(
        what="A model's outputs differ from its golden outputs.",
        at=at,
        got=got,
        expected=expected,
        fix="use the runtime's version that the manifest's evidence names, or bundle it again",
    )
