"""OpenVINO IR, converted from our ONNX file and quantized by NNCF.

From torch.export recurrent layers unroll and run 11 to 17 times slower, so ONNX is the way.
Source: https://docs.openvino.ai/2025/openvino-workflow/model-optimization.html
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
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
    "int8": "NNCF post-training, true min-max ranges, mixed preset",
}


def convert(network: Network, scheme: str, calibration: Sequence[Inputs], path: Path) -> None:
    """Writes `network` to `path` and its weights beside it; see `Format`."""
    ov = need("openvino", extra=EXTRA)
    onnx = need("onnx", extra=EXTRA)
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch) / "plain.onnx"
        write_plain(network, plain)
        model = ov.convert_model(str(plain))
        if scheme == "int8":
            attention = bool(operators(onnx.load(plain)).intersection(ATTENTION))
            model = _quantize(model, calibration, attention=attention)
    _name_constants_in_order(model)
    # Compression to fp16 is OpenVINO's default, whatever was asked for.
    ov.save_model(model, str(path), compress_to_fp16=scheme == "fp16")


def _name_constants_in_order(model: Any) -> None:
    """Replaces names such as Constant_2358, counted over the whole process, so that the same
    network gives the same bytes."""
    for number, operation in enumerate(model.get_ordered_ops()):
        kind = operation.get_type_name()
        if kind not in ("Parameter", "Result") and re.fullmatch(
            rf"{kind}_\d+(/.*)?", operation.get_friendly_name()
        ):
            operation.set_friendly_name(f"{kind}_{number}")


def _quantize(model: Any, calibration: Sequence[Inputs], *, attention: bool) -> Any:
    nncf = need("nncf", extra=EXTRA)
    advanced = need("nncf.quantization.advanced_parameters", extra=EXTRA)
    ranges = need("nncf.quantization.range_estimator", extra=EXTRA)
    arrays = [{name: tensor.numpy() for name, tensor in sample.items()} for sample in calibration]
    return nncf.quantize(
        model,
        nncf.Dataset(arrays),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(arrays),
        # Without it attention networks fall to 11 dB.
        model_type=nncf.ModelType.TRANSFORMER if attention else None,
        # The default averages the samples' ranges: 3 to 15 dB less on convolutional classifiers.
        advanced_parameters=advanced.AdvancedQuantizationParameters(
            activations_range_estimator_params=ranges.RangeEstimatorParametersSet.MINMAX
        ),
    )
