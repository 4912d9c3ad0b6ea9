"""Converts a network to ONNX by torch.onnx.

Source: https://pytorch.org/docs/stable/onnx_export.html
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.formats.capture import export_dynamic_or_static, first_successful, traced
from edgekd.formats.integer_io import measured_ranges
from edgekd.formats.onnx.integer_io import retype
from edgekd.formats.onnx.quantize import LINEAR, METHODS, prepare, quantize
from edgekd.formats.options import ExportOptions
from edgekd.system.packages import need
from edgekd.system.scratch import scratch_folder

if TYPE_CHECKING:
    from edgekd.data import Inputs
    from edgekd.network.network import Network

EXTRA = "onnx"
SCHEMES = {
    "fp32": "torch.onnx",
    "fp16": "weights and operators in fp16, inputs and outputs in fp32",
    **{scheme: next(iter(methods.values())) for scheme, methods in METHODS.items()},
}
OPSETS = (13, 23)
"""The oldest opset that quantizes weights per channel (DequantizeLinear, axis), and the newest that
was tried."""


def convert(
    network: Network, calibration: Sequence[Inputs], path: Path, options: ExportOptions
) -> str:
    """Writes `network` to `path`; see `Format`. Excluded operators are names of nodes."""
    onnx = need("onnx", extra=EXTRA)
    scheme = options.scheme
    with scratch_folder() as scratch:
        plain = scratch / "plain.onnx"
        note = write_plain(network, plain, options.opset)
        if scheme == "fp32":
            onnx.save(onnx.load(plain), path)
        elif scheme == "fp16":
            float16 = need("onnxruntime.transformers.float16", extra=EXTRA)
            half = float16.convert_float_to_float16(
                onnx.load(plain),
                keep_io_types=True,
                # Its default clips values larger than 10,000.
                max_finite_val=65504.0,
            )
            onnx.save(half, path)
        else:
            method = options.method or next(iter(METHODS[scheme]))
            model = quantize(plain, method, calibration, options)
            if options.io != "float32":
                model = retype(model, measured_ranges(network, calibration), options.io)
            onnx.save(_strip(model), path)
            return METHODS[scheme][method] + note
    return SCHEMES[scheme] + note


def write_plain(network: Network, path: Path, opset: int | None = None) -> str:
    """Writes `network` to `path` in float32, with all weights inside the file.

    Returns:
        A note on the export path where it is not the first.
    """
    need("onnxscript", extra=EXTRA)
    program = export_dynamic_or_static(network)
    _, note = first_successful(
        {
            "torch.export": lambda: _write(program, network, path, opset),
            "torch.export, decomposed": lambda: _write(_decomposed(program), network, path, opset),
            "TorchScript": lambda: _write_traced(network, path, opset or 18),
        }
    )
    onnx = need("onnx", extra=EXTRA)
    onnx.save(_strip(onnx.load(path)), path)
    return note


def _write(program: Any, network: Network, path: Path, opset: int | None) -> None:
    import torch

    if isinstance(program, Exception):
        raise program
    written = torch.onnx.export(
        program,
        (),
        kwargs=dict(network.example),
        dynamo=True,
        verbose=False,
        input_names=network.signature.input_names,
        output_names=network.signature.output_names,
        external_data=False,
        opset_version=opset,
    )
    if written is None:
        raise RuntimeError("torch.onnx.export returned no program")
    _free_names(
        written.model.graph, {*network.signature.input_names, *network.signature.output_names}
    )
    written.save(str(path))
    written_opset = opset_of(path)
    # Where its version converter fails, torch.onnx keeps the newer operators and logs a warning.
    if opset is not None and written_opset != opset:
        raise RuntimeError(f"torch.onnx wrote opset {written_opset}, not {opset}")


def _free_names(graph: Any, taken: set[str]) -> None:
    """Renames inner tensors of `graph` that have the name of an input or output.

    torch.onnx 2.13 names inner tensors after their operators and then the outputs as asked: an
    output "embedding" of a network with an embedding was in the file twice, which no runtime loads.
    """
    for node in graph:
        for value in node.outputs:
            if value.name in taken and not value.is_graph_output():
                value.name = f"{value.name}_inner"


def opset_of(path: Path) -> int:
    """The opset of the standard operators in the ONNX file at `path`."""
    model = need("onnx", extra=EXTRA).load(path, load_external_data=False)
    return int(next(each.version for each in model.opset_import if each.domain in ("", "ai.onnx")))


def _write_traced(network: Network, path: Path, opset: int) -> None:
    import torch

    with warnings.catch_warnings():
        # It warns that it is the old exporter, which is why it comes last.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            traced(network),
            tuple(network.example[name] for name in network.signature.input_names),
            str(path),
            dynamo=False,
            input_names=network.signature.input_names,
            output_names=network.signature.output_names,
            opset_version=opset,
            dynamic_axes=_axes(network) if network.dynamic else None,
        )


def _axes(network: Network) -> dict[str, dict[int, str]]:
    """The names of the dynamic dimensions, by tensor and axis; each output has its own."""
    axes: dict[str, dict[int, str]] = {}
    for dim in network.dynamic:
        for name, axis in dim.axes.items():
            axes.setdefault(name, {})[axis] = dim.name
    for spec in network.signature.outputs:
        for axis, size in enumerate(spec.shape):
            if size is None:
                axes.setdefault(spec.name, {})[axis] = f"{spec.name}_{axis}"
    return axes


def _decomposed(program: Any) -> Any:
    if isinstance(program, Exception):
        raise program
    return program.run_decompositions()


def operators(model: Any) -> set[str]:
    """The operator types in the graph of the ONNX `model`."""
    return {str(node.op_type) for node in model.graph.node}


def _strip(model: Any) -> Any:
    """`model` without the exporter's notes on every node: Python source lines, paths of the machine
    that exported it, and half the size of a small model."""
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    for node in nodes:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    return model


def layers(network: Network) -> list[str]:
    """The operators with weights in the file of `network`, in order, by the names that
    `excluded_operators` takes."""
    onnx = need("onnx", extra=EXTRA)
    with scratch_folder() as scratch:
        plain = scratch / "plain.onnx"
        write_plain(network, plain)
        model = onnx.load(prepare(plain))
    kinds = (*LINEAR, "ConvTranspose")
    return [node.name for node in model.graph.node if node.op_type in kinds]
