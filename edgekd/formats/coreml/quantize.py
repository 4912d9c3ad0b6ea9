"""Compresses Core ML programs by coremltools.

Source: https://apple.github.io/coremltools/docs-guides/source/opt-overview.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from edgekd.formats.coreml.mil import load_program
from edgekd.formats.coreml.mil.program import Named
from edgekd.formats.options import ExportOptions
from edgekd.network.architecture import LARGE, SMALL
from edgekd.system.packages import need
from edgekd.system.scratch import scratch_folder

if TYPE_CHECKING:
    from edgekd.data import Inputs

EXTRA = "coreml"

WEIGHT_THRESHOLD = SMALL
"""Tensors with fewer elements stay in float; coremltools' own 2048 leaves small networks alone."""
BLOCK = 32
PRODUCTS = ("conv", "linear")
"""Operators with weights; attention and layer norm lie between them."""

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
    """The oldest system that has the operators of the program."""
    if scheme == "int4-weights":
        return ct.target.iOS18
    return ct.target.iOS17 if method and method.startswith("activations") else ct.target.iOS16


def quantize(
    ct: Any, model: Any, method: str, calibration: Sequence[Inputs], options: ExportOptions
) -> Any:
    """The model compressed by `method` in the scheme of `options`."""
    optimize = need("coremltools.optimize.coreml", extra=EXTRA)
    scheme, excluded = options.scheme, dict.fromkeys(options.excluded_operators)
    if scheme == "palettized":
        bits = int(method.split("-")[2])
        config = optimize.OpPalettizerConfig(
            mode="kmeans", nbits=bits, weight_threshold=WEIGHT_THRESHOLD
        )
        return compressed(ct, model, optimize.palettize_weights, config, excluded)
    threshold = LARGE if method == "large-weights" else WEIGHT_THRESHOLD
    weights = {"mode": "linear_symmetric", "weight_threshold": threshold}
    if scheme == "int4-weights":
        weights |= {"dtype": "int4", "granularity": "per_block", "block_size": BLOCK}
    if method.startswith("activations"):
        model = _with_activations(ct, model, method, calibration, excluded)
    config = optimize.OpLinearQuantizerConfig(**weights)
    return compressed(ct, model, optimize.linear_quantize_weights, config, excluded)


def compressed(
    ct: Any, model: Any, compress: Any, config: Any, excluded: Mapping[str, None] | None = None
) -> Any:
    """The model after one of coremltools' compressions, which take models read from disk."""
    optimize = need("coremltools.optimize.coreml", extra=EXTRA)
    with scratch_folder() as scratch:
        return compress(
            _reread(ct, model, scratch),
            config=optimize.OptimizationConfig(
                global_config=config, op_name_configs=dict(excluded or {})
            ),
        )


def _reread(ct: Any, model: Any, scratch: Path) -> Any:
    plain = scratch / "plain.mlpackage"
    model.save(str(plain))
    return ct.models.MLModel(str(plain), skip_model_load=True)


def _with_activations(
    ct: Any, model: Any, method: str, calibration: Sequence[Inputs], excluded: Mapping[str, None]
) -> Any:
    """The model with its activations in int8.

    coremltools measures their ranges by Core ML itself, on macOS alone, and keeps the range of the
    last sample only (9.0, `_update_tensor_range`), so the reference evaluator measures them.
    """
    optimize = need("coremltools.optimize.coreml", extra=EXTRA)
    private: Any = need("coremltools.optimize.coreml._post_training_quantization", extra=EXTRA)
    config = optimize.OpLinearQuantizerConfig(mode="linear_symmetric")
    linear = method.endswith("linear")
    with scratch_folder() as scratch:
        plain = _reread(ct, model, scratch)
        path = scratch / "plain.mlpackage"
        ranges = measured_ranges(path, calibration)
        settings = optimize.OptimizationConfig(
            global_config=None if linear else config,
            op_type_configs=dict.fromkeys(PRODUCTS, config) if linear else None,
            # It would quantize sums of integers too.
            op_name_configs={**dict.fromkeys(_integer_operators(path)), **excluded},
        )
        measure = private._get_activation_calibration_stats
        private._get_activation_calibration_stats = lambda *_: ranges
        try:
            return optimize.linear_quantize_activations(plain, settings, [])
        finally:
            private._get_activation_calibration_stats = measure


def _integer_operators(path: Path) -> list[str]:
    """The operators of the program at `path` whose outputs are not floats."""
    steps = load_program(path).body.steps
    outputs = [output for step in steps for output in step.outputs]
    return [name for name, kind in outputs if kind is None or not kind.is_floating_point]


def measured_ranges(path: Path, calibration: Sequence[Inputs]) -> dict[str, dict[str, float]]:
    """The smallest and largest value of each tensor of the program at `path` over `calibration`.

    The inputs of a concatenation have the range of its output, as coremltools requires.
    """
    program = load_program(path)
    ranges: dict[str, dict[str, float]] = {}
    for sample in calibration:
        kept: dict[str, torch.Tensor] = {}
        program(sample, kept=kept)
        for name, value in {**sample, **kept}.items():
            if not value.numel() or not value.is_floating_point():
                continue
            entry = ranges.setdefault(name, {"rmin": float("inf"), "rmax": float("-inf")})
            entry["rmin"] = min(entry["rmin"], float(value.min()))
            entry["rmax"] = max(entry["rmax"], float(value.max()))
    for step in program.body.steps:
        if step.operator == "concat":
            names = [value.name for value in step.inputs["values"] if hasattr(value, "name")]
            names = [name for name in (*names, step.outputs[0][0]) if name in ranges]
            low = min(ranges[name]["rmin"] for name in names)
            high = max(ranges[name]["rmax"] for name in names)
            ranges |= {name: {"rmin": low, "rmax": high} for name in names}
    read = {
        each.name
        for step in program.body.steps
        for value in step.inputs.values()
        for each in (value if isinstance(value, list | tuple) else [value])
        if isinstance(each, Named)
    }
    # An output is not quantized unless another operator reads it.
    only_outputs = set(program.outputs) - read
    return {name: entry for name, entry in ranges.items() if name not in only_outputs}
