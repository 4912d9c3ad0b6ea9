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

from edgekd.formats.onnx import ATTENTION, operators, write_plain
from edgekd.need import need

if TYPE_CHECKING:
    from edgekd.data import Inputs
    from edgekd.network import Network

SUFFIX = ".xml"
RUNTIME = "openvino"
EXTRA = "openvino"
PACKAGES: tuple[str, ...] = ("openvino", "nncf", "onnx", "onnxscript")
SCHEMES = {
    "fp32": "from ONNX",
    "fp16": "weights in fp16, widened when the model is compiled",
    "int8": "NNCF post-training, true min-max, mixed preset, weights in 7 of 8 bits",
    "int8-weights": "NNCF, weights per channel, widened before they are used",
}
SPARSE = (
    "OpenVINO skips loading zeros of int8 matrix products on CPUs with AMX, if asked to "
    "(CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE); elsewhere no faster, smaller when zipped "
    "(docs.openvino.ai/2025/notebooks/sparsity-optimization-with-output.html)"
)


def convert(network: Network, scheme: str, calibration: Sequence[Inputs], path: Path) -> str:
    """Writes `network` to `path` and its weights beside it; see `Format`."""
    with _no_telemetry():
        return _convert(network, scheme, calibration, path)


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


def _convert(network: Network, scheme: str, calibration: Sequence[Inputs], path: Path) -> str:
    ov = need("openvino", extra=EXTRA)
    onnx = need("onnx", extra=EXTRA)
    how = SCHEMES[scheme]
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch) / "plain.onnx"
        note = write_plain(network, plain)
        _spell_out_mish(onnx, plain)
        model = ov.convert_model(str(plain))
        if scheme == "int8-weights":
            nncf = need("nncf", extra=EXTRA)
            model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
        if scheme == "int8":
            attention = bool(operators(onnx.load(plain)).intersection(ATTENTION))
            model, how = _quantize(ov, model, calibration, attention=attention)
    _name_in_order(model)
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


def _quantize(
    ov: Any, model: Any, calibration: Sequence[Inputs], *, attention: bool
) -> tuple[Any, str]:
    """The quantized model, and how."""
    arrays = [{name: tensor.numpy() for name, tensor in sample.items()} for sample in calibration]
    if not attention:
        return _quantize_once(model, arrays), SCHEMES["int8"]
    # With SmoothQuant, the default for transformers, one attention network fell from 32 to 10 dB;
    # others need it. Both are made, and the calibration samples decide.
    made = {
        "with SmoothQuant": _quantize_once(model.clone(), arrays, attention=True, smooth=True),
        "without SmoothQuant": _quantize_once(model.clone(), arrays, attention=True, smooth=False),
    }
    noise = {name: _noise(ov, model, candidate, arrays) for name, candidate in made.items()}
    best = min(noise, key=lambda name: noise[name])
    return made[best], f"{SCHEMES['int8']}; as a transformer, {best}"


def _quantize_once(
    model: Any, arrays: list[dict[str, Any]], *, attention: bool = False, smooth: bool = False
) -> Any:
    nncf = need("nncf", extra=EXTRA)
    advanced = need("nncf.quantization.advanced_parameters", extra=EXTRA)
    ranges = need("nncf.quantization.range_estimator", extra=EXTRA)
    alphas = advanced.AdvancedSmoothQuantParameters()
    if not smooth:
        alphas = advanced.AdvancedSmoothQuantParameters(convolution=-1, matmul=-1)
    return nncf.quantize(
        model,
        nncf.Dataset(arrays),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(arrays),
        # Without it attention networks fell to 11 dB.
        model_type=nncf.ModelType.TRANSFORMER if attention else None,
        advanced_parameters=advanced.AdvancedQuantizationParameters(
            # The default averages the samples' ranges: 3 to 15 dB less on convolutional networks.
            activations_range_estimator_params=ranges.RangeEstimatorParametersSet.MINMAX,
            # x86 without VNNI saturates in 16 bits; NNCF's default protects the first layer alone.
            overflow_fix=advanced.OverflowFix.ENABLE,
            smooth_quant_alphas=alphas,
        ),
    )


def _noise(ov: Any, model: Any, candidate: Any, arrays: list[dict[str, Any]]) -> float:
    """The squared error of the candidate's outputs against the model's, over all samples."""
    config = {"INFERENCE_PRECISION_HINT": "f32"}
    ours = ov.compile_model(model, "CPU", config)
    theirs = ov.compile_model(candidate, "CPU", config)
    total = 0.0
    for sample in arrays:
        for left, right in zip(ours(sample).to_tuple(), theirs(sample).to_tuple(), strict=True):
            total += float(((left - right) ** 2).sum())
    return total
