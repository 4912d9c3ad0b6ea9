"""What is wrong with calibration samples, and what is only doubtful.

A quantizer takes whatever it is given: ranges measured on the wrong samples are a file that loads,
runs and is wrong.
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
"""Samples under which a set is doubtful; tools' guides ask for 100 to 500."""
SCALE = 8.0
"""How far the size of values may be from the training data's: three of eight bits are lost, or
clipped, beyond it."""
OUTSIDE_FRAC = 1e-3
"""The share of values outside the training data's range that is told."""
COVERED_FRAC = 0.5
"""The share of the training data's range under which it is told that samples do not cover it."""
LOOKED_AT = 1_000_000
"""Values of an input at most that its size is taken from."""


def unusable(
    samples: Sequence[Sample],
    specs: Sequence[TensorSpec],
    *,
    at: str,
    numbers: Sequence[int] | None = None,
    scheme: str = "int8",
) -> list[Fault]:
    """The faults for which no range can be measured on `samples`, the first kind there is.

    Args:
        specs: of the network's inputs; a sample has each by name, batch first.
        at: what the samples are, for the message.
        numbers: of the samples there, where they are not all of them.
    """
    if not samples:
        return [
            Fault(
                what=f"{scheme} needs calibration samples.",
                at=at,
                got="none",
                expected="samples of real inputs, a hundred or so",
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
                    what="A calibration sample holds a NaN or an infinity.",
                    at=f"input {name}, {at} samples {broken[:8]}",
                    got=f"{len(broken)} such samples of {len(samples)}",
                    expected="finite values",
                    fix="mend or remove these samples; ranges measured on them mean nothing",
                )
            ]
    return []


def _all_equal(samples: Sequence[Sample], at: str) -> list[Fault]:
    first = samples[0]
    if all(bool((tensor == tensor.reshape(-1)[0]).all()) for tensor in first.values()):
        told = listed(f"{name} = {float(t.reshape(-1)[0]):g}" for name, t in first.items())
        got = f"{told} everywhere"
    else:
        got = "the same sample, again and again"
    equal = all(torch.equal(sample[name], first[name]) for sample in samples[1:] for name in first)
    if not equal or (len(samples) == 1 and not got.endswith("everywhere")):
        return []
    return [
        Fault(
            what="The calibration samples are all equal.",
            at=at,
            got=f"{len(samples)} samples: {got}",
            expected="different samples of real inputs",
            fix="look at what makes them: a loader that returns one buffer, or zeros",
        )
    ]


def off_scale(samples: Sequence[Sample], seen: Sample, *, at: str) -> list[Fault]:
    """The faults of inputs whose values are not of the size of those the network was taught with.

    Args:
        seen: inputs of the training split, by name, batch first.
    """
    faults = []
    for name, taught in seen.items():
        if not taught.is_floating_point():
            continue
        values = torch.cat([sample[name].reshape(-1) for sample in samples])
        pairs = zip(_sizes(values), _sizes(taught), strict=True)
        ratios = [ours / theirs if theirs else 1.0 for ours, theirs in pairs]
        if min(ratios) <= SCALE and max(ratios) >= 1 / SCALE:
            continue
        faults.append(
            Fault(
                what="The calibration samples are not on the scale of the training data.",
                at=f"input {name}, {at}",
                got=f"{_range(values)}, {ratios[0]:.3g} times the training data's size",
                expected=f"values like the training split's, {_range(taught)}",
                fix="normalise them as data.load normalises the training split",
            )
        )
    return faults


def doubts(samples: Sequence[Sample], seen: Sample) -> list[str]:
    """What of `samples` is doubtful, in sentences; see `off_scale`."""
    found = []
    if len(samples) < FEW:
        found.append(
            f"only {len(samples)} calibration samples: ranges of so few clip what others have"
        )
    earlier: set[bytes] = set()
    for sample in samples:
        earlier.add(b"".join(each.contiguous().numpy().tobytes() for each in sample.values()))
    if len(earlier) < len(samples):
        again = len(samples) - len(earlier)
        found.append(f"{again} of {len(samples)} calibration samples are there more than once")
    for name, taught in seen.items():
        values = torch.cat([sample[name].reshape(-1) for sample in samples]).double()
        low, high = float(taught.min()), float(taught.max())
        if values.min() == values.max() and low < high:
            found.append(f"input {name} is {float(values[0]):g} in all calibration samples")
            continue
        outside = float(((values < low) | (values > high)).double().mean())
        if outside > OUTSIDE_FRAC:
            found.append(
                f"{100 * outside:.1f} % of the calibration values of input {name} lie outside "
                f"the training split's, {_range(taught)}"
            )
        if high > low and float(values.max() - values.min()) < COVERED_FRAC * (high - low):
            found.append(
                f"the calibration values of input {name}, {_range(values)}, cover less than half "
                f"of the training split's, {_range(taught)}"
            )
    return found


def _sizes(values: Tensor) -> tuple[float, float]:
    """The size of all but the largest thousandth, and the mean size: of outliers the one does not
    change, of values that are mostly zero the other."""
    flat = values.reshape(-1)
    flat = flat[:: max(1, flat.numel() // LOOKED_AT)].abs().double()
    most = flat.kthvalue(max(1, round(0.999 * flat.numel()))).values
    return float(most), float(flat.mean())


def _range(values: Tensor) -> str:
    return f"{float(values.min()):.3g} to {float(values.max()):.3g}"
