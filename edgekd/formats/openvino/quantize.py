"""OpenVINO models quantized by NNCF, or by ONNX Runtime before they are converted.

Source: https://docs.openvino.ai/2025/openvino-workflow/model-optimization.html
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgekd.formats.onnx import quantize as _onnx_quantize
from edgekd.system.packages import need

if TYPE_CHECKING:
    from edgekd.data import Inputs

EXTRA = "openvino"

_NNCF = "NNCF post-training, mixed preset"
_SYMMETRIC = "NNCF post-training, performance preset: activations without a zero point"
METHODS: dict[str, dict[str, str]] = {
    "int8": {
        "min-max": f"{_NNCF}, true min-max, biases corrected",
        "min-max-uncorrected": f"{_NNCF}, true min-max, biases as they are",
        "symmetric": f"{_SYMMETRIC}, true min-max, biases as they are",
        "mean": f"{_NNCF}, mean of the samples' ranges, biases corrected",
        "quantile": f"{_NNCF}, mean of the samples' quantiles, biases corrected",
        "histogram": f"{_NNCF}, ranges of least squared error, biases corrected",
        "slow-correction": f"{_NNCF}, true min-max, biases corrected layer by layer",
        "channel-alignment": f"{_NNCF}, true min-max, channels aligned, biases corrected",
        "transformer": f"{_NNCF}, true min-max, as a transformer",
        "transformer-smooth": f"{_NNCF}, true min-max, as a transformer, with SmoothQuant",
        "transformer-unsmoothed": f"{_NNCF}, true min-max, as a transformer, without SmoothQuant",
        "transformer-symmetric": f"{_SYMMETRIC}, true min-max, as a transformer",
        "onnxruntime": f"in ONNX, {_onnx_quantize.METHODS['int8']['min-max']}",
        "onnxruntime-linear": f"in ONNX, {_onnx_quantize.METHODS['int8']['linear']}",
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
"""Of the samples, by which one of two files is taken."""


def by_onnxruntime(method: str) -> str | None:
    """The method of the ONNX quantizer that `method` stands for; None where NNCF quantizes."""
    return {"onnxruntime": "min-max", "onnxruntime-linear": "linear"}.get(method)


def quantize(
    ov: Any,
    model: Any,
    scheme: str,
    method: str,
    calibration: Sequence[Inputs],
    *,
    keep: Sequence[str] = (),
    weight_bits: int = 7,
) -> tuple[Any, str]:
    """The quantized model, and how.

    Args:
        keep: operations that stay in float, by friendly name.
        weight_bits: 7 or 8, of the int8 of weights that are used.
    """
    how = METHODS[scheme][method]
    arrays = [{name: tensor.numpy() for name, tensor in sample.items()} for sample in calibration]
    if scheme == "int8-weights":
        return _compressed(model, keep), how
    if scheme == "int4-weights":
        return _in_groups(model, method, arrays, keep), how
    settings: dict[str, Any] = {"keep": keep, "weight_bits": weight_bits}
    if method != "transformer":
        return _once(model, arrays, method, **settings), how
    # With SmoothQuant, the default for transformers, some networks are computed wrongly; others
    # need it. Both are made of most of the samples, and the rest decides: on the samples that it
    # has seen, SmoothQuant is always good (a TCN: 47.6 dB, and 27.3 on others; without 47.1, 45.2).
    names = ("transformer-smooth", "transformer-unsmoothed")
    held = max(1, int(HELD_OUT * len(arrays)))
    seen, others = arrays[:-held] or arrays, arrays[-held:]
    made = {name: _once(model.clone(), seen, name, **settings) for name in names}
    noise = {name: _noise(ov, model, candidate, others) for name, candidate in made.items()}
    best = min(noise, key=lambda name: noise[name])
    return _once(model, arrays, best, **settings), METHODS[scheme][best]


def _compressed(model: Any, keep: Sequence[str]) -> Any:
    nncf = need("nncf", extra=EXTRA)
    return nncf.compress_weights(
        model, mode=nncf.CompressWeightsMode.INT8_SYM, ignored_scope=_ignored(keep)
    )


def _ignored(keep: Sequence[str]) -> Any:
    nncf = need("nncf", extra=EXTRA)
    return nncf.IgnoredScope(names=list(keep)) if keep else None


def _in_groups(model: Any, method: str, arrays: list[dict[str, Any]], keep: Sequence[str]) -> Any:
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
        ignored_scope=_ignored(keep),
        dataset=nncf.Dataset(arrays) if options else None,
        subset_size=max(1, len(arrays)),
        # Matrices whose rows are no multiple of the group are left in int8, not refused.
        advanced_parameters=nncf.AdvancedCompressionParameters(
            group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST
        ),
        **options,
    )


def _once(
    model: Any,
    arrays: list[dict[str, Any]],
    method: str,
    *,
    keep: Sequence[str],
    weight_bits: int,
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
        # Zero points of activations cost a fifth of the time of a U-Net, and gain it 2 dB.
        preset=preset.PERFORMANCE if method.endswith("symmetric") else preset.MIXED,
        subset_size=len(arrays),
        fast_bias_correction=method != "slow-correction",
        ignored_scope=_ignored(keep),
        # Without it attention networks fell to 11 dB.
        model_type=nncf.ModelType.TRANSFORMER if attention else None,
        advanced_parameters=advanced.AdvancedQuantizationParameters(
            # The default averages the samples' ranges: 3 to 15 dB less on convolutional networks,
            # and 2 more on U-Nets.
            activations_range_estimator_params=estimators.get(method, ranges.MINMAX),
            # x86 without VNNI saturates in 16 bits; NNCF's default protects the first layer alone.
            overflow_fix=fix.ENABLE if weight_bits < 8 else fix.DISABLE,
            smooth_quant_alphas=alphas,
            disable_bias_correction=method in ("min-max-uncorrected", "symmetric"),
            disable_channel_alignment=method != "channel-alignment",
        ),
    )


def _noise(ov: Any, model: Any, candidate: Any, arrays: list[dict[str, Any]]) -> float:
    """The squared error of the candidate's outputs against the model's, over all samples.

    On one thread and on two, the worse: on one, the CPU plugin of OpenVINO 2026.4 computes some
    models with SmoothQuant wrongly (-73 dB instead of 44 on two linear layers).
    """
    config = {"INFERENCE_PRECISION_HINT": "f32"}
    ours = ov.compile_model(model, "CPU", config)
    totals = []
    for threads in (1, 2):
        theirs = ov.compile_model(candidate, "CPU", {**config, "INFERENCE_NUM_THREADS": threads})
        pairs = [
            (left, right)
            for sample in arrays
            for left, right in zip(ours(sample).to_tuple(), theirs(sample).to_tuple(), strict=True)
        ]
        totals.append(sum(float(((left - right) ** 2).sum()) for left, right in pairs))
    return max(totals)
