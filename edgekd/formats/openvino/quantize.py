"""Quantizes OpenVINO models by NNCF.

Source: https://docs.openvino.ai/2025/openvino-workflow/model-optimization.html
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgekd.formats.onnx import quantize as onnx_quantize
from edgekd.formats.options import ExportOptions
from edgekd.system.packages import need

if TYPE_CHECKING:
    from edgekd.data import Inputs

EXTRA = "openvino"

_NNCF = "NNCF post-training, mixed preset"
_SYMMETRIC = "NNCF post-training, performance preset: activations without a zero point"
METHODS: dict[str, dict[str, str]] = {
    "int8": {
        "min-max": f"{_NNCF}, true min-max, biases corrected",
        "no-bias-correction": f"{_NNCF}, true min-max, biases as they are",
        "symmetric": f"{_SYMMETRIC}, true min-max, biases as they are",
        "mean": f"{_NNCF}, mean of the samples' ranges, biases corrected",
        "quantile": f"{_NNCF}, mean of the samples' quantiles, biases corrected",
        "histogram": f"{_NNCF}, ranges of least squared error, biases corrected",
        "accurate-bias-correction": f"{_NNCF}, true min-max, biases corrected layer by layer",
        "channel-alignment": f"{_NNCF}, true min-max, channels aligned, biases corrected",
        "transformer": f"{_NNCF}, true min-max, as a transformer",
        "transformer-smooth": f"{_NNCF}, true min-max, as a transformer, with SmoothQuant",
        "transformer-no-smooth-quant": f"{_NNCF}, true min-max, as a transformer, "
        "without SmoothQuant",
        "transformer-symmetric": f"{_SYMMETRIC}, true min-max, as a transformer",
        "onnxruntime": f"in ONNX, {onnx_quantize.METHODS['int8']['min-max']}",
        "onnxruntime-linear": f"in ONNX, {onnx_quantize.METHODS['int8']['linear']}",
    },
    "int8-weights": {"nncf": "NNCF, weights per channel, widened before they are used"},
    "int4-weights": {
        "group-32": "NNCF, weights of matrix products in groups of 32, the rest in int8",
        "scale-estimation": "NNCF, groups of 32, scales of least error on samples",
        "awq": "NNCF, groups of 32, activation-aware scales (AWQ)",
        "gptq": "NNCF, groups of 32, rounded by GPTQ",
    },
}
"""The onnxruntime methods quantize the ONNX file that the rest is converted from."""

GROUP = 32
HELD_OUT = 0.25
"""Share of the samples by which one of two files is chosen."""


SAMPLED_METHODS = ("scale-estimation", "awq", "gptq")


def method_in_onnx(method: str) -> str | None:
    """The method of ONNX Runtime's quantizer that `method` stands for; None where NNCF
    quantizes."""
    return {"onnxruntime": "min-max", "onnxruntime-linear": "linear"}.get(method)


def quantize(
    ov: Any, model: Any, method: str, calibration: Sequence[Inputs], options: ExportOptions
) -> tuple[Any, str]:
    """The model quantized by `method` in the scheme of `options`, and the method's description."""
    scheme, excluded = options.scheme, options.excluded_operators
    description = METHODS[scheme][method]
    arrays = [{name: tensor.numpy() for name, tensor in sample.items()} for sample in calibration]
    if scheme == "int8-weights":
        return _compressed(model, excluded), description
    if scheme == "int4-weights":
        return _in_groups(model, method, arrays, excluded), description
    if method != "transformer":
        return _quantized(model, arrays, method, options), description
    # With SmoothQuant, the default for transformers, some networks are computed wrongly; others
    # need it. Both are calibrated on most of the samples, and the held-out rest decides: on the
    # samples that it was calibrated on, SmoothQuant is always good (a TCN: 47.6 dB, and 27.3 on
    # others; without it 47.1 and 45.2).
    names = ("transformer-smooth", "transformer-no-smooth-quant")
    held = max(1, int(HELD_OUT * len(arrays)))
    seen, others = arrays[:-held] or arrays, arrays[-held:]
    candidates = {name: _quantized(model.clone(), seen, name, options) for name in names}
    noise = {name: _noise(ov, model, each, others) for name, each in candidates.items()}
    best = min(noise, key=lambda name: noise[name])
    return _quantized(model, arrays, best, options), METHODS[scheme][best]


def _compressed(model: Any, excluded: Sequence[str]) -> Any:
    nncf = need("nncf", extra=EXTRA)
    return nncf.compress_weights(
        model, mode=nncf.CompressWeightsMode.INT8_SYM, ignored_scope=_ignored(excluded)
    )


def _ignored(excluded: Sequence[str]) -> Any:
    nncf = need("nncf", extra=EXTRA)
    return nncf.IgnoredScope(names=list(excluded)) if excluded else None


def _in_groups(
    model: Any, method: str, arrays: list[dict[str, Any]], excluded: Sequence[str]
) -> Any:
    nncf = need("nncf", extra=EXTRA)
    options = {
        "scale-estimation": {"scale_estimation": True},
        "awq": {"awq": True},
        "gptq": {"gptq": True},
    }.get(method, {})
    return nncf.compress_weights(
        model,
        mode=nncf.CompressWeightsMode.INT4_ASYM,
        group_size=GROUP,
        all_layers=True,
        ignored_scope=_ignored(excluded),
        dataset=nncf.Dataset(arrays) if options else None,
        subset_size=max(1, len(arrays)),
        # A matrix whose rows are no multiple of the group becomes int8 instead of an error.
        advanced_parameters=nncf.AdvancedCompressionParameters(
            group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST
        ),
        **options,
    )


def _quantized(
    model: Any, arrays: list[dict[str, Any]], method: str, options: ExportOptions
) -> Any:
    nncf = need("nncf", extra=EXTRA)
    advanced = need("nncf.quantization.advanced_parameters", extra=EXTRA)
    ranges = need("nncf.quantization.range_estimator", extra=EXTRA).RangeEstimatorParametersSet
    estimators = {
        "mean": ranges.MEAN_MINMAX,
        "quantile": ranges.MEAN_QUANTILE,
        "histogram": ranges.HISTOGRAM,
    }
    attention = method.startswith("transformer")
    alphas = advanced.AdvancedSmoothQuantParameters()
    if method != "transformer-smooth":
        alphas = advanced.AdvancedSmoothQuantParameters(convolution=-1, matmul=-1)
    fix, preset = advanced.OverflowFix, nncf.QuantizationPreset
    return nncf.quantize(
        model,
        nncf.Dataset(arrays),
        # Zero points of activations take a fifth of a U-Net's time and gain it 2 dB.
        preset=preset.PERFORMANCE if method.endswith("symmetric") else preset.MIXED,
        subset_size=len(arrays),
        fast_bias_correction=method != "accurate-bias-correction",
        ignored_scope=_ignored(options.excluded_operators),
        # Without it attention networks fell to 11 dB.
        model_type=nncf.ModelType.TRANSFORMER if attention else None,
        advanced_parameters=advanced.AdvancedQuantizationParameters(
            # The default averages the samples' ranges: 3 to 15 dB less on convolutional networks,
            # and 2 more on U-Nets.
            activations_range_estimator_params=estimators.get(method, ranges.MINMAX),
            # x86 without VNNI saturates in 16 bits; NNCF's default protects the first layer alone.
            overflow_fix=fix.ENABLE if options.reduce_range else fix.DISABLE,
            smooth_quant_alphas=alphas,
            disable_bias_correction=method in ("no-bias-correction", "symmetric"),
            disable_channel_alignment=method != "channel-alignment",
        ),
    )


def _noise(ov: Any, model: Any, candidate: Any, arrays: list[dict[str, Any]]) -> float:
    """The squared error of the candidate's outputs against the model's, over all samples.

    It is the worse of one thread and two: on one, the CPU plugin of OpenVINO 2026.4 computes some
    models with SmoothQuant wrongly (-73 dB instead of 44 on two linear layers).
    """
    config = {"INFERENCE_PRECISION_HINT": "f32"}
    reference = ov.compile_model(model, "CPU", config)
    totals = []
    for threads in (1, 2):
        compiled = ov.compile_model(candidate, "CPU", {**config, "INFERENCE_NUM_THREADS": threads})
        pairs = [
            pair
            for sample in arrays
            for pair in zip(reference(sample).to_tuple(), compiled(sample).to_tuple(), strict=True)
        ]
        totals.append(sum(float(((left - right) ** 2).sum()) for left, right in pairs))
    return max(totals)
