"""Converts a network to OpenVINO IR by way of ONNX.

Converted from torch.export, recurrent layers unroll and run 11 to 17 times slower.
Source: https://docs.openvino.ai/2025/openvino-workflow/model-preparation.html
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.formats.integer_io import measured_ranges
from edgekd.formats.onnx import integer_io as onnx_integer_io
from edgekd.formats.onnx import quantize as onnx_quantize
from edgekd.formats.onnx.converter import operators, write_plain
from edgekd.formats.openvino import integer_io
from edgekd.formats.openvino.quantize import METHODS, method_in_onnx, quantize
from edgekd.formats.options import ExportOptions
from edgekd.system.packages import need
from edgekd.system.scratch import scratch_folder

if TYPE_CHECKING:
    from edgekd.data import Inputs
    from edgekd.network.network import Network

EXTRA = "openvino"
SCHEMES = {
    "fp32": "from ONNX",
    "fp16": "weights in fp16, widened when the model is compiled",
    "bf16": "weights in fp32, computed in bf16: the file asks the runtime for it",
    **{scheme: next(iter(methods.values())) for scheme, methods in METHODS.items()},
}
PRECISION = ["edgekd", "precision"]
"""Path, in `rt_info`, of the INFERENCE_PRECISION_HINT to compile a file with; f32 without it."""


def convert(
    network: Network, calibration: Sequence[Inputs], path: Path, options: ExportOptions
) -> str:
    """Writes `network` to `path` and its weights beside it; see `Format`.

    Excluded operators are friendly names of operations.
    """
    with _no_telemetry():
        return _convert(network, calibration, path, options)


@contextmanager
def _no_telemetry() -> Iterator[None]:
    """Makes OpenVINO and NNCF believe they run in CI, where they report their use to no server."""
    names = ("CI", "NNCF_CI")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "true"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _convert(
    network: Network, calibration: Sequence[Inputs], path: Path, options: ExportOptions
) -> str:
    ov = need("openvino", extra=EXTRA)
    scheme = options.scheme
    method = options.method or next(iter(METHODS.get(scheme, {})), None)
    integers = options.io != "float32"
    description = SCHEMES[scheme]
    with scratch_folder() as scratch:
        plain = scratch / "plain.onnx"
        note = write_plain(network, plain)
        _decompose_mish(plain)
        in_onnx = method_in_onnx(method) if method else None
        if method and in_onnx:
            _quantize_in_onnx(plain, in_onnx, method, network, calibration, options)
            description = METHODS[scheme][method]
        model = ov.convert_model(str(plain))
        if in_onnx and integers:
            model = integer_io.record(model, onnx_integer_io.quantization(plain))
        if method and not in_onnx:
            model, description = quantize(ov, model, method, calibration, options)
            if integers:
                ranges = measured_ranges(network, calibration)
                model = integer_io.retype(ov, model, ranges, options.io)
    _name_in_order(model)
    if scheme == "bf16":
        model.set_rt_info("bf16", PRECISION)
    # Compression to fp16 is OpenVINO's default in any scheme.
    ov.save_model(model, str(path), compress_to_fp16=scheme == "fp16")
    return description + note


def _quantize_in_onnx(
    plain: Path,
    in_onnx: str,
    method: str,
    network: Network,
    calibration: Sequence[Inputs],
    options: ExportOptions,
) -> None:
    """Quantizes the ONNX file at `plain` by ONNX Runtime's method `in_onnx`."""
    onnx = need("onnx", extra=EXTRA)
    if options.excluded_operators:
        raise RuntimeError(f"{method} quantizes in ONNX, where layers have other names")
    model = onnx_quantize.quantize(plain, in_onnx, calibration, options)
    if options.io != "float32":
        onnx_integer_io.retype(model, measured_ranges(network, calibration), options.io)
    onnx.save(model, plain)


def _decompose_mish(path: Path) -> None:
    """Writes Mish in other operators: the CPU plugin of OpenVINO 2026.4 joins a matrix product and
    Mish into one snippet, and then has no kernel for it on one thread.

    The formula is x n / (n + 2) with n = e^x (e^x + 2) and x limited to 20 in it: x
    tanh(softplus(x)) would be read as Mish again.
    """
    onnx = need("onnx", extra=EXTRA)
    model = onnx.load(path)
    if "Mish" not in operators(model):
        return
    nodes: list[Any] = []

    def add(kind: str, *inputs: str, output: str | None = None) -> str:
        name = output or f"mish_{len(nodes)}"
        nodes.append(onnx.helper.make_node(kind, list(inputs), [name]))
        return name

    for node in model.graph.node:
        if node.op_type != "Mish":
            nodes.append(node)
            continue
        x = node.input[0]
        power = add("Exp", add("Min", x, "mish_twenty"))
        product = add("Mul", power, add("Add", power, "mish_two"))
        add("Mul", x, add("Div", product, add("Add", product, "mish_two")), output=node.output[0])
    for name, value in (("mish_twenty", 20.0), ("mish_two", 2.0)):
        constant = onnx.helper.make_tensor(name, onnx.TensorProto.FLOAT, [], [value])
        model.graph.initializer.append(constant)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, path)


def _name_in_order(model: Any) -> None:
    """Replaces names such as Constant_2358, which count over the whole process, so that the same
    network gives the same bytes."""
    for number, operation in enumerate(model.get_ordered_ops()):
        kind = operation.get_type_name()
        counted = re.fullmatch(r"[A-Za-z]+_\d+(/.*)?", operation.get_friendly_name())
        if counted and kind not in ("Parameter", "Result"):
            operation.set_friendly_name(f"{kind}_{number}")


def layers(network: Network) -> list[str]:
    """The operations with weights in the file of `network`, in order, by the names that
    `excluded_operators` takes."""
    ov = need("openvino", extra=EXTRA)
    with scratch_folder() as scratch:
        plain = scratch / "plain.onnx"
        write_plain(network, plain)
        _decompose_mish(plain)
        model = ov.convert_model(str(plain))
    kinds = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul")
    return [
        str(operation.get_friendly_name())
        for operation in model.get_ordered_ops()
        if operation.get_type_name() in kinds
    ]
