"""Converts a network to a Core ML program (`.mlpackage`) by coremltools.

Source: https://apple.github.io/coremltools/docs-guides/
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.formats.capture import export_dynamic_or_static, first_successful, traced
from edgekd.formats.coreml.quantize import (
    METHODS,
    WEIGHT_THRESHOLD,
    compressed,
    deployment_target,
    quantize,
)
from edgekd.formats.coreml.torch_operators import register_operators
from edgekd.formats.options import ExportOptions
from edgekd.network.dynamic_shapes import size_of
from edgekd.system.packages import need

if TYPE_CHECKING:
    from edgekd.artifacts.signature import TensorSpec
    from edgekd.data import Inputs
    from edgekd.network.network import Network

EXTRA = "coreml"
SCHEMES = {
    "fp32": "computed in fp32, so not on the Neural Engine",
    "fp16": "computed in fp16",
    **{scheme: next(iter(methods.values())) for scheme, methods in METHODS.items()},
}


def convert(
    network: Network, calibration: Sequence[Inputs], path: Path, options: ExportOptions
) -> str:
    """Writes `network` to `path`; see `Format`. Excluded operators are names of operators."""
    ct = need("coremltools", extra=EXTRA)
    register_operators()
    scheme = options.scheme
    method = options.method or next(iter(METHODS.get(scheme, {})), None)
    oldest = deployment_target(ct, scheme, method)
    program = export_dynamic_or_static(network)
    model, note = first_successful(
        {
            "torch.export": lambda: _converted(ct, _simplified(program), network, scheme, oldest),
            "TorchScript": lambda: _converted(ct, traced(network), network, scheme, oldest),
        }
    )
    if method is not None:
        model = quantize(ct, model, method, calibration, options)
    elif _has_zeros(network):
        model = _store_sparse(ct, model)
    # The date of the conversion would make every file a different one.
    model.user_defined_metadata.pop("com.github.apple.coremltools.conversion_date", None)
    model.save(str(path))
    _name_parts_by_content(path)
    return (METHODS[scheme][method] if method else SCHEMES[scheme]) + note


def layers(network: Network) -> list[str]:
    """The operators with weights in the file of `network`, in order, by the names that
    `excluded_operators` takes."""
    ct = need("coremltools", extra=EXTRA)
    register_operators()
    program = export_dynamic_or_static(network)
    oldest = ct.target.iOS17
    model, _ = first_successful(
        {
            "torch.export": lambda: _converted(ct, _simplified(program), network, "int8", oldest),
            "TorchScript": lambda: _converted(ct, traced(network), network, "int8", oldest),
        }
    )
    main = model.get_spec().mlProgram.functions["main"]
    operations = main.block_specializations[main.opset].operations
    products = ("conv", "conv_transpose", "linear", "matmul")
    names = [entry.attributes["name"] for entry in operations if entry.type in products]
    return [name.immediateValue.tensor.strings.values[0] for name in names]


def _converted(ct: Any, program: Any, network: Network, scheme: str, oldest: Any) -> Any:
    import numpy as np

    return ct.convert(
        program,
        inputs=[
            ct.TensorType(
                name=spec.name,
                shape=_shape(ct, network, spec),
                dtype=np.int32 if spec.dtype.startswith(("int", "bool")) else np.float32,
            )
            for spec in network.signature.inputs
        ],
        outputs=[ct.TensorType(name=name) for name in network.signature.output_names],
        minimum_deployment_target=oldest,
        compute_precision=ct.precision.FLOAT32 if scheme == "fp32" else ct.precision.FLOAT16,
        skip_model_load=True,
    )


def _shape(ct: Any, network: Network, spec: TensorSpec) -> Any:
    """The shape of an input, a range where its dimension is dynamic."""
    ranges = {
        dim.axes[spec.name]: ct.RangeDim(
            lower_bound=dim.least, upper_bound=dim.most, default=size_of(dim, network.example)
        )
        for dim in network.dynamic
        if spec.name in dim.axes
    }
    return ct.Shape([ranges.get(axis, size) for axis, size in enumerate(spec.shape)])


def _simplified(program: Any) -> Any:
    """The exported program in operators that coremltools 9.0 converts correctly, with torch 2.13.

    It wants the stride of max_pool2d and the epsilon of rms_norm, which torch.export leaves out
    where they are the defaults, and has no operator for `alias`, which does nothing.
    """
    import torch

    from edgekd.formats import decompositions

    if isinstance(program, Exception):
        raise program
    decomposed = program.run_decompositions(decompositions.coreml())
    graph = decomposed.graph_module.graph
    aten = torch.ops.aten
    for node in list(graph.nodes):
        if node.target == aten.max_pool2d.default and len(node.args) == 2:
            node.args = (*node.args, node.args[1])
        if node.target == aten.rms_norm.default:
            weight = node.args[2] if len(node.args) > 2 else None
            epsilon = node.args[3] if len(node.args) > 3 else None
            if epsilon is None:
                epsilon = torch.finfo(node.meta["val"].dtype).eps
            node.args = (*node.args[:2], weight, epsilon)
        if node.target == aten.alias.default:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    decomposed.graph_module.recompile()
    return decomposed


def _has_zeros(network: Network) -> bool:
    """Whether any weight is pruned: half zeros or more."""
    return any(
        2 * int((weight == 0).sum()) >= weight.numel()
        for weight in network.module.parameters()
        if weight.ndim > 1 and weight.numel() >= WEIGHT_THRESHOLD
    )


def _store_sparse(ct: Any, model: Any) -> Any:
    """The model with pruned weights stored sparsely; their values do not change."""
    optimize = need("coremltools.optimize.coreml", extra=EXTRA)
    config = optimize.OpThresholdPrunerConfig(
        threshold=1e-12, minimum_sparsity_percentile=0.5, weight_threshold=WEIGHT_THRESHOLD
    )
    return compressed(ct, model, optimize.prune_weights, config)


def _name_parts_by_content(path: Path) -> None:
    """Replaces the manifest's random identifiers, so that the same network gives the same bytes."""
    file = path / "Manifest.json"
    manifest = json.loads(file.read_text(encoding="utf-8"))
    names = {
        key: str(uuid.uuid5(uuid.NAMESPACE_URL, entry["path"])).upper()
        for key, entry in manifest["itemInfoEntries"].items()
    }
    entries = manifest["itemInfoEntries"].items()
    manifest["itemInfoEntries"] = {names[key]: entry for key, entry in sorted(entries, key=_path)}
    manifest["rootModelIdentifier"] = names[manifest["rootModelIdentifier"]]
    file.write_text(json.dumps(manifest, indent=4, sort_keys=True), encoding="utf-8")


def _path(item: tuple[str, dict[str, Any]]) -> str:
    return str(item[1]["path"])
