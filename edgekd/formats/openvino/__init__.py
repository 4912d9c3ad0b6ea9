"""OpenVINO IR, converted from our ONNX file and quantized by NNCF.

From torch.export recurrent layers unroll and run 11 to 17 times slower, so ONNX is the way.
Source: https://docs.openvino.ai/2025/openvino-workflow/model-optimization.html
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.formats.integer_io import ranges
from edgekd.formats.onnx import integer_io as _onnx_integer_io
from edgekd.formats.onnx import operators, write_plain
from edgekd.formats.onnx import quantize as _onnx_quantize
from edgekd.formats.openvino import integer_io as _openvino_integer_io
from edgekd.formats.openvino import quantize as _openvino_quantize
from edgekd.formats.openvino.quantize import METHODS as METHODS
from edgekd.system.packages import need

if TYPE_CHECKING:
    from edgekd.data import Inputs
    from edgekd.network.network import Network

SUFFIX = ".xml"
RUNTIME = "openvino"
EXTRA = "openvino"
PACKAGES: tuple[str, ...] = ("openvino", "nncf", "onnx", "onnxscript")
SCHEMES = {
    "fp32": "from ONNX",
    "fp16": "weights in fp16, widened when the model is compiled",
    "bf16": "weights in fp32; computed in bf16, for which the file says the runtime is to be asked",
    **{scheme: next(iter(methods.values())) for scheme, methods in METHODS.items()},
}
SPARSE = (
    "OpenVINO skips loading zeros of int8 matrix products on CPUs with AMX, if asked to "
    "(CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE); elsewhere no faster, smaller when zipped "
    "(docs.openvino.ai/2025/notebooks/sparsity-optimization-with-output.html)"
)


PRECISION = ["edgekd", "precision"]
"""Where in a file lies what INFERENCE_PRECISION_HINT it is to be compiled with: f32 without it."""


def convert(
    network: Network,
    scheme: str,
    calibration: Sequence[Inputs],
    path: Path,
    *,
    method: str | None = None,
    keep: Sequence[str] = (),
    weight_bits: int = 7,
    io: str = "float32",
) -> str:
    """Writes `network` to `path` and its weights beside it; see `Format`.

    Args:
        keep: operations that stay in float, by friendly name.
        weight_bits: 7 or 8, of the int8 of weights that are used: 7 are safe on every processor.
        io: what the file has in place of float32 inputs and outputs; static int8 alone.
    """
    if scheme in METHODS:
        method = method or next(iter(METHODS[scheme]))
    with _no_telemetry():
        return _convert(network, scheme, calibration, path, method, keep, weight_bits, io)


@contextmanager
def _no_telemetry() -> Iterator[None]:
    """While open, OpenVINO and NNCF take this for CI, where they report their use to no server."""
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
    network: Network,
    scheme: str,
    calibration: Sequence[Inputs],
    path: Path,
    method: str | None,
    keep: Sequence[str],
    weight_bits: int,
    io: str,
) -> str:
    ov = need("openvino", extra=EXTRA)
    onnx = need("onnx", extra=EXTRA)
    how = SCHEMES[scheme]
    settings: dict[str, Any] = {"keep": keep, "weight_bits": weight_bits}
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch) / "plain.onnx"
        note = write_plain(network, plain)
        _spell_out_mish(onnx, plain)
        theirs = _openvino_quantize.by_onnxruntime(method) if method else None
        if method and theirs:
            if keep:
                raise RuntimeError(f"{method} quantizes in ONNX, where layers have other names")
            made = _onnx_quantize.quantize(plain, scheme, theirs, calibration, **settings)
            if io != "float32":
                _onnx_integer_io.retype(made, ranges(network, calibration), io)
            onnx.save(made, plain)
            how = METHODS[scheme][method]
        model = ov.convert_model(str(plain))
        if theirs and io != "float32":
            model = _openvino_integer_io.progress(model, _onnx_integer_io.quantization(plain))
        if method and not theirs:
            model, how = _openvino_quantize.quantize(
                ov, model, scheme, method, calibration, **settings
            )
            if io != "float32":
                model = _openvino_integer_io.retype(ov, model, ranges(network, calibration), io)
    _name_in_order(model)
    if scheme == "bf16":
        model.set_rt_info("bf16", PRECISION)
    # Compression to fp16 is OpenVINO's default, whatever was asked for.
    ov.save_model(model, str(path), compress_to_fp16=scheme == "fp16")
    return how + note


def _spell_out_mish(onnx: Any, path: Path) -> None:
    """Writes Mish in other operators: the CPU plugin of OpenVINO 2026.4 joins a matrix product and
    Mish into one snippet, and then has no kernel for it on one thread.

    x n / (n + 2) with n = e^x (e^x + 2), x of at most 20 in it: x tanh(softplus(x)) would be read
    as Mish again.
    """
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
    """Replaces names such as Constant_2358, which are counted over the whole process, so that the
    same network gives the same bytes."""
    for number, operation in enumerate(model.get_ordered_ops()):
        kind = operation.get_type_name()
        counted = re.fullmatch(r"[A-Za-z]+_\d+(/.*)?", operation.get_friendly_name())
        if counted and kind not in ("Parameter", "Result"):
            operation.set_friendly_name(f"{kind}_{number}")


def layers(network: Network) -> list[str]:
    """The operations with weights in the file of `network`, in order, by the names that `keep`
    takes."""
    ov = need("openvino", extra=EXTRA)
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch) / "plain.onnx"
        write_plain(network, plain)
        _spell_out_mish(need("onnx", extra=EXTRA), plain)
        model = ov.convert_model(str(plain))
    kinds = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul")
    return [
        str(each.get_friendly_name())
        for each in model.get_ordered_ops()
        if each.get_type_name() in kinds
    ]
