"""Core ML programs compressed by coremltools.

Source: https://apple.github.io/coremltools/docs-guides/source/opt-overview.html
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from edgekd.formats.coreml.mil import load_program
from edgekd.formats.coreml.mil.program import Named
from edgekd.network.architecture import LARGE, SMALL
from edgekd.system.packages import need

if TYPE_CHECKING:
    from edgekd.data import Inputs

EXTRA = "coreml"

WEIGHT_THRESHOLD = SMALL
"""Tensors with fewer elements stay in float; coremltools' own 2048 leaves small networks alone."""
BLOCK = 32
PRODUCTS = ("conv", "linear")
"""Operators between which attention and layer norm lie."""

_W8A8 = (
    "int8 weights per channel, int8 activations by true min-max over what the reference evaluator "
    "computes; for iOS 17 on"
)
METHODS: dict[str, dict[str, str]] = {
    "int8": {
        "weights": "int8 weights per channel, fp16 activations",
        "large-weights": f"int8 weights per channel of tensors of {LARGE} elements or more, "
        "fp16 activations",
        "activations": _W8A8,
        "activations-linear": f"{_W8A8}; only {', '.join(PRODUCTS)}",
    },
    "int8-weights": {"channels": "int8 weights per channel, fp16 activations"},
    "int4-weights": {
        "block-32": "int4 weights in blocks of 32, fp16 activations; for iOS 18 on",
    },
    "palettized": {
        "k-means-4-bit": "weights of 16 values by k-means, fp16 activations",
        "k-means-6-bit": "weights of 64 values by k-means, fp16 activations",
        "k-means-8-bit": "weights of 256 values by k-means, fp16 activations",
    },
}


def deployment_target(ct: Any, scheme: str, method: str | None) -> Any:
    """The oldest system that has the operators of such a program."""
    if scheme == "int4-weights":
        return ct.target.iOS18
    return ct.target.iOS17 if method and method.startswith("activations") else ct.target.iOS16


def quantize(
    ct: Any,
    model: Any,
    scheme: str,
    method: str,
    calibration: Sequence[Inputs],
    *,
    keep: Sequence[str] = (),
) -> Any:
    """The compressed model.

    Args:
        keep: operators that stay in float, by name.
    """
    optimize = need("coremltools.optimize.coreml", extra=EXTRA)
    kept = dict.fromkeys(keep)
    if scheme == "palettized":
        bits = int(method.split("-")[2])
        config = optimize.OpPalettizerConfig(
            mode="kmeans", nbits=bits, weight_threshold=WEIGHT_THRESHOLD
        )
        return compressed(ct, model, optimize.palettize_weights, config, kept)
    threshold = LARGE if method == "large-weights" else WEIGHT_THRESHOLD
    weights = {"mode": "linear_symmetric", "weight_threshold": threshold}
    if scheme == "int4-weights":
        weights |= {"dtype": "int4", "granularity": "per_block", "block_size": BLOCK}
    if method.startswith("activations"):
        model = _with_activations(ct, model, method, calibration, kept)
    config = optimize.OpLinearQuantizerConfig(**weights)
    return compressed(ct, model, optimize.linear_quantize_weights, config, kept)


def compressed(
    ct: Any, model: Any, compress: Any, config: Any, kept: Mapping[str, None] | None = None
) -> Any:
    """The model after one of coremltools' compressions, which want it read from disk."""
    optimize = need("coremltools.optimize.coreml", extra=EXTRA)
    with tempfile.TemporaryDirectory() as scratch:
        return compress(
            _reread(ct, model, Path(scratch)),
            config=optimize.OptimizationConfig(
                global_config=config, op_name_configs=dict(kept or {})
            ),
        )


def _reread(ct: Any, model: Any, scratch: Path) -> Any:
    plain = scratch / "plain.mlpackage"
    model.save(str(plain))
    return ct.models.MLModel(str(plain), skip_model_load=True)


def _with_activations(
    ct: Any, model: Any, method: str, calibration: Sequence[Inputs], kept: Mapping[str, None]
) -> Any:
    """The model with its activations in int8.

    coremltools measures their ranges by Core ML itself, on macOS alone, and of the samples keeps
    only the last one's (9.0, `_update_tensor_range`); so the reference evaluator measures them.
    """
    optimize = need("coremltools.optimize.coreml", extra=EXTRA)
    private: Any = need("coremltools.optimize.coreml._post_training_quantization", extra=EXTRA)
    config = optimize.OpLinearQuantizerConfig(mode="linear_symmetric")
    linear = method.endswith("linear")
    with tempfile.TemporaryDirectory() as scratch:
        plain = _reread(ct, model, Path(scratch))
        place = Path(scratch) / "plain.mlpackage"
        ranges = measured_ranges(place, calibration)
        whole = optimize.OptimizationConfig(
            global_config=None if linear else config,
            op_type_configs=dict.fromkeys(PRODUCTS, config) if linear else None,
            # It would quantize sums of whole numbers too.
            op_name_configs={**dict.fromkeys(_whole_numbers(place)), **kept},
        )
        measure = private._get_activation_calibration_stats
        private._get_activation_calibration_stats = lambda *_: ranges
        try:
            return optimize.linear_quantize_activations(plain, whole, [])
        finally:
            private._get_activation_calibration_stats = measure


def _whole_numbers(path: Path) -> list[str]:
    """The operators of the program at `path` whose outputs are no floats."""
    steps = load_program(path).body.steps
    outputs = [output for step in steps for output in step.outputs]
    return [name for name, kind in outputs if kind is None or not kind.is_floating_point]


def measured_ranges(path: Path, calibration: Sequence[Inputs]) -> dict[str, dict[str, float]]:
    """By tensor of the program at `path`, its least and largest value over `calibration`.

    What is joined has the range of what it is joined to, as coremltools wants it.
    """
    program = load_program(path)
    found: dict[str, dict[str, float]] = {}
    for sample in calibration:
        kept: dict[str, torch.Tensor] = {}
        program(sample, kept=kept)
        for name, value in {**sample, **kept}.items():
            if not value.numel() or not value.is_floating_point():
                continue
            entry = found.setdefault(name, {"rmin": float("inf"), "rmax": float("-inf")})
            entry["rmin"] = min(entry["rmin"], float(value.min()))
            entry["rmax"] = max(entry["rmax"], float(value.max()))
    for step in program.body.steps:
        if step.operator == "concat":
            names = [each.name for each in step.inputs["values"] if hasattr(each, "name")]
            names = [name for name in (*names, step.outputs[0][0]) if name in found]
            low = min(found[name]["rmin"] for name in names)
            high = max(found[name]["rmax"] for name in names)
            found |= {name: {"rmin": low, "rmax": high} for name in names}
    read = {
        each.name
        for step in program.body.steps
        for value in step.inputs.values()
        for each in (value if isinstance(value, list | tuple) else [value])
        if isinstance(each, Named)
    }
    # An output is not rounded itself; one that an operator reads is, on its way there.
    ends = set(program.outputs) - read
    return {name: entry for name, entry in found.items() if name not in ends}
