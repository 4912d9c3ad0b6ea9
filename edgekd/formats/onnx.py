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

from edgekd.errors import listed
from edgekd.formats._ways import exported_or_fixed, first_way, traced
from edgekd.need import need

if TYPE_CHECKING:
    from edgekd.data import Inputs
    from edgekd.network import Network

SUFFIX = ".onnx"
RUNTIME = "onnxruntime"
EXTRA = "onnx"
PACKAGES: tuple[str, ...] = ("onnx", "onnxscript", "onnxruntime")
SCHEMES = {
    "fp32": "torch.onnx",
    "fp16": "weights and operators in fp16, inputs and outputs in fp32",
    "int8": "static QDQ, uint8 activations by min-max, weights per channel in 7 of 8 bits",
    "int8-dynamic": "products of matrices and LSTM, activations quantized while it runs",
}
SPARSE = (
    "ONNX Runtime's kernels multiply zeros like any value: no faster, smaller when zipped "
    "(github.com/microsoft/onnxruntime/issues/5578)"
)

ATTENTION = ("Softmax", "LayerNormalization")
"""Operators of networks that collapse when every operator is quantized (11 dB): there only the
products of LINEAR are (37 to 39 dB)."""
LINEAR = ("MatMul", "Gemm", "Conv")
DYNAMIC = ("MatMul", "Gemm", "LSTM")


OPSETS = (13, 23)
"""The oldest in which weights can be quantized by channel (DequantizeLinear, axis), and the newest
that was tried."""


def convert(
    network: Network,
    scheme: str,
    calibration: Sequence[Inputs],
    path: Path,
    *,
    opset: int | None = None,
) -> str:
    """Writes `network` to `path`; see `Format`.

    Args:
        opset: of the file's operators; the exporter's own without it.
    """
    onnx = need("onnx", extra=EXTRA)
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch) / "plain.onnx"
        note = write_plain(network, plain, opset)
        if scheme == "fp32":
            onnx.save(onnx.load(plain), path)
        elif scheme == "fp16":
            float16 = need("onnxruntime.transformers.float16", extra=EXTRA)
            half = float16.convert_float_to_float16(onnx.load(plain), keep_io_types=True)
            onnx.save(half, path)
        elif scheme == "int8-dynamic":
            _quantize_dynamically(onnx, plain, path)
        else:
            return _quantize(onnx, plain, calibration, path) + note
    return SCHEMES[scheme] + note


def write_plain(network: Network, path: Path, opset: int | None = None) -> str:
    """Writes `network` to `path` in float32, with all weights inside the file.

    Returns a note on the way where it is not the first.
    """
    need("onnxscript", extra=EXTRA)
    program = exported_or_fixed(network)
    _, note = first_way(
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
    written.save(str(path))
    found = opset_of(path)
    # Where its version converter fails, torch.onnx keeps the newer operators and says so in a log.
    if opset is not None and found != opset:
        raise RuntimeError(f"torch.onnx wrote opset {found}, not {opset}")


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
            dynamic_axes=_axes(network) if network.free else None,
        )


def _axes(network: Network) -> dict[str, dict[int, str]]:
    """The names of the free sizes, by tensor and axis; of outputs each has its own."""
    found: dict[str, dict[int, str]] = {}
    for each in network.free:
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


def _quantize_dynamically(onnx: Any, plain: Path, path: Path) -> None:
    quantization = need("onnxruntime.quantization", extra=EXTRA)
    shapes = need("onnxruntime.quantization.shape_inference", extra=EXTRA)
    prepared, quantized = plain.with_name("prepared.onnx"), plain.with_name("quantized.onnx")
    shapes.quant_pre_process(str(plain), str(prepared))
    if not operators(onnx.load(prepared)).intersection(DYNAMIC):
        raise RuntimeError(f"the network has no {listed(DYNAMIC)} to quantize")
    quantization.quantize_dynamic(
        str(prepared),
        str(quantized),
        # Convolutions, quantized so, ran at 0.05 to 0.25 times the speed of fp32.
        op_types_to_quantize=list(DYNAMIC),
        weight_type=quantization.QuantType.QInt8,
        per_channel=True,
        reduce_range=True,
    )
    onnx.save(_strip(onnx.load(quantized)), path)


def _quantize(onnx: Any, plain: Path, calibration: Sequence[Inputs], path: Path) -> str:
    quantization = need("onnxruntime.quantization", extra=EXTRA)
    shapes = need("onnxruntime.quantization.shape_inference", extra=EXTRA)
    prepared = plain.with_name("prepared.onnx")
    shapes.quant_pre_process(str(plain), str(prepared))
    attention = operators(onnx.load(prepared)).intersection(ATTENTION)
    quantized = plain.with_name("quantized.onnx")
    quantization.quantize_static(
        str(prepared),
        str(quantized),
        _Reader(calibration),
        quant_format=quantization.QuantFormat.QDQ,
        # Signed activations, the default, ran at 0.2 to 1.6 times the speed of fp32 on x86.
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        per_channel=True,
        # x86 without VNNI adds two products of 8 bits in 16 and saturates: on an AVX2 machine eight
        # bits of weight lost 1 to 14 dB against seven, which are safe on every processor.
        reduce_range=True,
        calibrate_method=quantization.CalibrationMethod.MinMax,
        op_types_to_quantize=list(LINEAR) if attention else None,
    )
    onnx.save(_strip(onnx.load(quantized)), path)
    only = f"; only {listed(LINEAR)}: it has attention or layer norm" if attention else ""
    return SCHEMES["int8"] + only


class _Reader:
    """Calibration samples, as ONNX Runtime's CalibrationDataReader asks for them."""

    def __init__(self, samples: Sequence[Inputs]) -> None:
        self._samples = iter(samples)

    def get_next(self) -> dict[str, Any] | None:
        sample = next(self._samples, None)
        return sample and {name: tensor.numpy() for name, tensor in sample.items()}
