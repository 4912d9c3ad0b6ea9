"""Converts a network to LiteRT by litert-torch.

Source: https://github.com/google-ai-edge/litert-torch
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from edgekd.formats.capture import exported, first_successful
from edgekd.formats.litert import quantize as litert_quantize
from edgekd.formats.litert.quantize import METHODS
from edgekd.formats.options import ExportOptions
from edgekd.system.packages import need
from edgekd.system.scratch import scratch_folder

if TYPE_CHECKING:
    from edgekd.data import Inputs
    from edgekd.network.network import Network

EXTRA = "litert"
SCHEMES = {
    "fp32": "litert-torch",
    "fp16": "weights in fp16, widened when XNNPACK packs them",
    **{scheme: next(iter(methods.values())) for scheme, methods in METHODS.items()},
}


def convert(
    network: Network, calibration: Sequence[Inputs], path: Path, options: ExportOptions
) -> str:
    """Writes `network` to `path`; see `Format`.

    Excluded operators are named by their first output.
    """
    scheme = options.scheme
    edge_model, note = _edge_model(network)
    if scheme == "fp32":
        edge_model.export(str(path))
        return SCHEMES[scheme] + note
    with scratch_folder() as scratch:
        plain = scratch / "plain.tflite"
        edge_model.export(str(plain))
        if scheme == "fp16":
            _store_fp16(plain, path)
            return SCHEMES[scheme] + note
        method = options.method or next(iter(METHODS[scheme]))
        litert_quantize.quantize(plain, method, calibration, path, options)
        return METHODS[scheme][method] + note


def layers(network: Network) -> list[str]:
    """The operators with weights in the file of `network`, in order, by the names that
    `excluded_operators` takes."""
    with scratch_folder() as scratch:
        plain = scratch / "plain.tflite"
        _edge_model(network)[0].export(str(plain))
        return litert_quantize.layers(plain)


def _edge_model(network: Network) -> tuple[Any, str]:
    """The model that litert-torch converts `network` to, and a note where it is not by the first
    export path."""
    need("litert_torch", extra=EXTRA)
    program = exported(network)
    return first_successful(
        {
            "torch.export": lambda: _converted(_simplified(program), network),
            "torch.export, decomposed": lambda: _converted(
                program.run_decompositions().module(), network
            ),
        }
    )


def _converted(module: Any, network: Network) -> Any:
    litert_torch = need("litert_torch", extra=EXTRA)
    return litert_torch.convert(module, sample_kwargs=dict(network.example), strict_export=False)


def _simplified(program: Any) -> Any:
    """The exported program as a module of operators that litert-torch 0.10 converts correctly and
    LiteRT runs fast."""
    from edgekd.formats.decompositions import LITERT
    from edgekd.formats.litert.conv1d import Unsqueezed, has_signals

    if any(node.target in LITERT for node in program.graph.nodes):
        program = program.run_decompositions(LITERT)
    return Unsqueezed(program) if has_signals(program) else _pooled(program.module())


def _pooled(module: Any) -> Any:
    """`module` with means and maxima over an image's height and width that keep both axes at first.

    litert-torch 0.10 puts a transpose of the whole image before those that drop them.
    """
    aten = torch.ops.aten
    for node in list(module.graph.nodes):
        if node.target not in (aten.mean.dim, aten.amax.default) or len(node.args) > 2:
            continue
        image, axes = node.args
        if node.kwargs or image.meta["val"].ndim != 4 or {axis % 4 for axis in axes} != {2, 3}:
            continue
        node.args = (image, axes, True)
        with module.graph.inserting_after(node):
            shape = list(node.meta["val"].shape)
            flat = module.graph.call_function(aten.reshape.default, (node, shape))
        node.replace_all_uses_with(flat, delete_user_cb=lambda user, flat=flat: user is not flat)
    module.recompile()
    return module


def _store_fp16(plain: Path, path: Path) -> None:
    types = need("ai_edge_quantizer.qtyping", extra=EXTRA)
    quantizer = need("ai_edge_quantizer.quantizer", extra=EXTRA).Quantizer(str(plain))
    quantizer.update_quantization_recipe(
        regex=".*",
        operation_name=types.TFLOperationName.ALL_SUPPORTED,
        op_config=types.OpQuantizationConfig(
            weight_tensor_config=types.TensorQuantizationConfig(
                num_bits=16, dtype=types.TensorDataType.FLOAT
            ),
            compute_precision=types.ComputePrecision.FLOAT,
        ),
        algorithm_key=need("ai_edge_quantizer.recipe", extra=EXTRA).AlgorithmName.FLOAT_CASTING,
    )
    quantizer.quantize().export_model(str(path), overwrite=True)
