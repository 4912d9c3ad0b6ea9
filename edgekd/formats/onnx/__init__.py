"""ONNX, written by torch.onnx and quantized by ONNX Runtime's own quantizer.

Source: https://pytorch.org/docs/stable/onnx_export.html,
https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.formats.capture import export_dynamic_or_static, first_successful, traced
from edgekd.formats.integer_io import ranges
from edgekd.formats.onnx import integer_io as _onnx_integer_io
from edgekd.formats.onnx import quantize as _onnx_quantize
from edgekd.formats.onnx.quantize import METHODS as METHODS
from edgekd.system.packages import need

if TYPE_CHECKING:
    from edgekd.data import Inputs
    from edgekd.network.network import Network

SUFFIX = ".onnx"
RUNTIME = "onnxruntime"
EXTRA = "onnx"
PACKAGES: tuple[str, ...] = ("onnx", "onnxscript", "onnxruntime")
SCHEMES = {
    "fp32": "torch.onnx",
    "fp16": "weights and operators in fp16, inputs and outputs in fp32",
    **{scheme: next(iter(methods.values())) for scheme, methods in METHODS.items()},
}
SPARSE = (
    "ONNX Runtime's kernels multiply zeros like any value: no faster, smaller when zipped "
    "(github.com/microsoft/onnxruntime/issues/5578)"
)

OPSETS = (13, 23)
"""The oldest in which weights can be quantized by channel (DequantizeLinear, axis), and the newest
that was tried."""


def convert(
    network: Network,
    scheme: str,
    calibration: Sequence[Inputs],
    path: Path,
    *,
    method: str | None = None,
    keep: Sequence[str] = (),
    weight_bits: int = 7,
    opset: int | None = None,
    io: str = "float32",
) -> str:
    """Writes `network` to `path`; see `Format`.

    Args:
        keep: nodes that stay in float, by name.
        weight_bits: 7 or 8, of the int8 of weights that are used: 7 are safe on every processor.
        opset: of the file's operators; the exporter's own without it.
        io: what the file has in place of float32 inputs and outputs; static int8 alone.
    """
    onnx = need("onnx", extra=EXTRA)
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch) / "plain.onnx"
        note = write_plain(network, plain, opset)
        if scheme == "fp32":
            onnx.save(onnx.load(plain), path)
        elif scheme == "fp16":
            float16 = need("onnxruntime.transformers.float16", extra=EXTRA)
            half = float16.convert_float_to_float16(
                onnx.load(plain),
                keep_io_types=True,
                # Its default clips what is larger than 10,000.
                max_finite_val=65504.0,
            )
            onnx.save(half, path)
        else:
            method = method or next(iter(METHODS[scheme]))
            made = _onnx_quantize.quantize(
                plain, scheme, method, calibration, keep=keep, weight_bits=weight_bits
            )
            if io != "float32":
                made = _onnx_integer_io.retype(made, ranges(network, calibration), io)
            onnx.save(_strip(made), path)
            return METHODS[scheme][method] + note
    return SCHEMES[scheme] + note


def write_plain(network: Network, path: Path, opset: int | None = None) -> str:
    """Writes `network` to `path` in float32, with all weights inside the file.

    Returns a note on the way where it is not the first.
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
    found = opset_of(path)
    # Where its version converter fails, torch.onnx keeps the newer operators and says so in a log.
    if opset is not None and found != opset:
        raise RuntimeError(f"torch.onnx wrote opset {found}, not {opset}")


def _free_names(graph: Any, taken: set[str]) -> None:
    """Renames inner tensors of `graph` that are called as an input or output is.

    torch.onnx 2.13 names inner tensors after their operators and then the outputs as it is told: an
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
        # That this exporter is the old one is why it is the last way.
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
    """The names of the free sizes, by tensor and axis; of outputs each has its own."""
    found: dict[str, dict[int, str]] = {}
    for each in network.dynamic:
        for name, axis in each.axes.items():
            found.setdefault(name, {})[axis] = each.name
    for spec in network.signature.outputs:
        for axis, size in enumerate(spec.shape):
            if size is None:
                found.setdefault(spec.name, {})[axis] = f"{spec.name}_{axis}"
    return found


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
    nodes = [*model.graph.node, *(node for each in model.functions for node in each.node)]
    for node in nodes:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    return model


def layers(network: Network) -> list[str]:
    """The operators with weights in the file of `network`, in order, by the names that `keep`
    takes."""
    onnx = need("onnx", extra=EXTRA)
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch) / "plain.onnx"
        write_plain(network, plain)
        model = onnx.load(_onnx_quantize.prepare(plain))
    kinds = (*_onnx_quantize.LINEAR, "ConvTranspose")
    return [node.name for node in model.graph.node if node.op_type in kinds]
