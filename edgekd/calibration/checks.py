"""Checks calibration samples: faults that stop a run, and doubts that are reported.

A quantizer accepts any samples. Ranges measured on wrong ones give a file that loads and runs but
computes wrong results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from edgekd.artifacts.signature import TensorSpec
from edgekd.errors import Fault, listed
from edgekd.network.dynamic_shapes import fits

Sample = Mapping[str, Tensor]

FEW = 32
"""A set with fewer samples is reported; the guides of quantizers ask for 100 to 500."""
SCALE = 8.0
"""The largest ratio of the values' size to the training data's. Beyond it, three of eight bits are
lost or clipped."""
OUTSIDE_FRAC = 1e-3
"""The share of values outside the training data's range above which it is reported."""
COVERED_FRAC = 0.5
"""The share of the training data's range that is covered, below which it is reported."""
SIZE_VALUES = 1_000_000
"""The largest number of values of an input that its size is computed from."""


def unusable(
    samples: Sequence[Sample],
    specs: Sequence[TensorSpec],
    *,
    at: str,
    numbers: Sequence[int] | None = None,
    scheme: str = "int8",
) -> list[Fault]:
    """The faults that make `samples` unusable for calibration, of the first kind that is found.

    Args:
        specs: the network's inputs; a sample has each by name, batch first.
        at: a name for the samples, for messages.
        numbers: the indices of the samples in their split, if they are not all of it.
    """
    if not samples:
        return [
            Fault(
                what=f"{scheme} needs calibration samples.",
                at=at,
                got="none",
                expected="about a hundred samples of real inputs",
                fix="give calibration=[{input name: tensor}, ...], "
                "on the command line --calibration FILE.safetensors",
            )
        ]
    return (
        _misfits(samples, specs, at)
        or _not_finite(samples, at, numbers or range(len(samples)))
        or _all_equal(samples, at)
    )


def _misfits(samples: Sequence[Sample], specs: Sequence[TensorSpec], at: str) -> list[Fault]:
    for number, sample in enumerate(samples):
        for spec in specs:
            tensor = sample.get(spec.name)
            dtype = "" if tensor is None else str(tensor.dtype).removeprefix("torch.")
            if tensor is not None and fits(tensor.shape, spec) and dtype == spec.dtype:
                continue
            got = f"inputs {listed(sample)}"
            if tensor is not None:
                got = f"{tuple(tensor.shape)} {dtype}"
            return [
                Fault(
                    what="A calibration sample does not fit the network.",
                    at=f"{at}, sample {number}, input {spec.name}",
                    got=got,
                    expected=f"{spec.shape} {spec.dtype}",
                    fix="give each input with the shape and data type of the example, batch first",
                )
            ]
    return []


def _not_finite(samples: Sequence[Sample], at: str, numbers: Sequence[int]) -> list[Fault]:
    for name in samples[0]:
        broken = [
            number
            for number, sample in zip(numbers, samples, strict=True)
            if sample[name].is_floating_point() and not bool(torch.isfinite(sample[name]).all())
        ]
        if broken:
            return [
                Fault(
                    what="A calibration sample contains a NaN or an infinity.",
                    at=f"input {name}, {at} samples {broken[:8]}",
                    got=f"{len(broken)} such samples of {len(samples)}",
                    expected="finite values",
                    fix="correct or remove these samples; ranges measured on them are meaningless",
                )
            ]
    return []


def _all_equal(samples: Sequence[Sample], at: str) -> list[Fault]:
    first = samples[0]
    if all(bool((tensor == tensor.reshape(-1)[0]).all()) for tensor in first.values()):
        values = listed(f"{name} = {float(t.reshape(-1)[0]):g}" for name, t in first.items())
        got = f"{values} everywhere"
    else:
        got = "the same sample, repeated"
    equal = all(torch.equal(sample[name], first[name]) for sample in samples[1:] for name in first)
    if not equal or (len(samples) == 1 and not got.endswith("everywhere")):
        return []
    return [
        Fault(
            what="The calibration samples are all equal.",
            at=at,
            got=f"{len(samples)} samples: {got}",
            expected="different samples of real inputs",
            fix="check their loader: does it return the same buffer, or zeros?",
        )
    ]


def off_scale(samples: Sequence[Sample], seen: Sample, *, at: str) -> list[Fault]:
    """The faults of inputs whose values differ in size from those the network was trained on.

    Args:
        seen: inputs of the training split, by name, batch first.
    """
    faults = []
    for name, trained in seen.items():
        if not trained.is_floating_point():
            continue
        values = torch.cat([sample[name].reshape(-1) for sample in samples])
        pairs = zip(_sizes(values), _sizes(trained), strict=True)
        ratios = [size / trained_size if trained_size else 1.0 for size, trained_size in pairs]
        if min(ratios) <= SCALE and max(ratios) >= 1 / SCALE:
            continue
        faults.append(
            Fault(
                what="The calibration samples are not on the scale of the training data.",
                at=f"input {name}, {at}",
                got=f"{_range(values)}, {ratios[0]:.3g} times the training data's size",
                expected=f"values like the training split's, {_range(trained)}",
                fix="normalize them as data.load normalizes the training split",
            )
        )
    return faults


def doubts(samples: Sequence[Sample], seen: Sample) -> list[str]:
    """Sentences on what may be wrong with `samples`; for `seen` see `off_scale`."""
    sentences = []
    if len(samples) < FEW:
        sentences.append(
            f"only {len(samples)} calibration samples: other inputs may be outside their ranges"
        )
    distinct = {
        b"".join(tensor.contiguous().numpy().tobytes() for tensor in sample.values())
        for sample in samples
    }
    if len(distinct) < len(samples):
        repeated = len(samples) - len(distinct)
        sentences.append(f"{repeated} of {len(samples)} calibration samples are duplicates")
    for name, trained in seen.items():
        values = torch.cat([sample[name].reshape(-1) for sample in samples]).double()
        low, high = float(trained.min()), float(trained.max())
        if values.min() == values.max() and low < high:
            sentences.append(f"input {name} is {float(values[0]):g} in all calibration samples")
            continue
        outside = float(((values < low) | (values > high)).double().mean())
        if outside > OUTSIDE_FRAC:
            sentences.append(
                f"{100 * outside:.1f} % of the calibration values of input {name} lie outside "
                f"the training split's, {_range(trained)}"
            )
        if high > low and float(values.max() - values.min()) < COVERED_FRAC * (high - low):
            sentences.append(
                f"the calibration values of input {name}, {_range(values)}, cover less than half "
                f"of the training split's, {_range(trained)}"
            )
    return sentences


def _sizes(values: Tensor) -> tuple[float, float]:
    """The 99.9th percentile of the magnitude, which outliers do not change, and its mean, which is
    not zero if most values are."""
    flat = values.reshape(-1)
    flat = flat[:: max(1, flat.numel() // SIZE_VALUES)].abs().double()
    most = flat.kthvalue(max(1, round(0.999 * flat.numel()))).values
    return float(most), float(flat.mean())


def _range(values: Tensor) -> str:
    return f"{float(values.min()):.3g} to {float(values.max()):.3g}"
