"""ONNX files quantized by ONNX Runtime's own quantizers.

Source: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.errors import listed
from edgekd.formats.options import ExportOptions
from edgekd.system.packages import need

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgekd.data import Inputs

EXTRA = "onnx"

LINEAR = ("MatMul", "Gemm", "Conv")
"""Operators with most of a network's weights; attention has 37 to 39 dB where only these are int8,
and 11 dB where all operators are."""
DYNAMIC = ("MatMul", "Gemm", "LSTM")

_STATIC = "static QDQ, uint8 activations, weights per channel"
METHODS: dict[str, dict[str, str]] = {
    "int8": {
        "min-max": f"{_STATIC}; ranges by min-max",
        "linear": f"{_STATIC}; ranges by min-max; only {listed(LINEAR)}",
        "percentile": f"{_STATIC}; ranges of 99.999 % of the values",
        "linear-percentile": f"{_STATIC}; ranges of 99.999 % of the values; only {listed(LINEAR)}",
        "mse": f"{_STATIC}; ranges of least squared error",
        "linear-mse": f"{_STATIC}; ranges of least squared error; only {listed(LINEAR)}",
        "entropy": f"{_STATIC}; ranges of least divergence, 2048 bins",
    },
    "int8-dynamic": {
        "dynamic": "matrix products and LSTM, activations quantized at run time",
    },
    "int4-weights": {
        "block-32": "weights of matrix products in blocks of 32, activations in float",
        "hqq": "weights of matrix products in blocks of 32, by half-quadratic rounding",
        "block-16": "weights of matrix products in blocks of 16, activations in float",
    },
}

PERCENTILE = 99.999
BINS = 2048
QUANTIZED_BINS = 128
"""With as many bins as quantized bins, ONNX Runtime's default, its entropy search does nothing."""
SHRINKS = 32
"""The number of smaller ranges that are tried on either side, down to a quarter."""


def quantize(
    plain: Path, method: str, calibration: Sequence[Inputs], options: ExportOptions
) -> Any:
    """The ONNX model at `plain`, quantized by `method` in the scheme of `options`."""
    excluded = options.excluded_operators
    if options.scheme == "int8-dynamic":
        return _dynamic(plain, options)
    if options.scheme == "int4-weights":
        return _blocks(plain, method, excluded)
    prepared = prepare(plain)
    names = {node.name for node in need("onnx", extra=EXTRA).load(prepared).graph.node}
    unknown = [name for name in excluded if name not in names]
    if unknown:
        raise RuntimeError(f"there is no node {listed(unknown)} to leave in float")
    kinds = list(LINEAR) if method.startswith("linear") else None
    cache = plain.with_name("ranges.json")
    calibration_method = _measure(prepared, calibration, method, cache, kinds)
    return _static(prepared, cache, calibration_method, kinds, options)


def prepare(plain: Path) -> Path:
    """The model at `plain` with its shapes inferred and constants folded, in a file beside it."""
    onnx = need("onnx", extra=EXTRA)
    shapes = need("onnxruntime.quantization.shape_inference", extra=EXTRA)
    prepared = plain.with_name("prepared.onnx")
    try:
        with _working_in(plain.parent):
            shapes.quant_pre_process(str(plain.resolve()), str(prepared.resolve()))
    except Exception as error:
        # Symbolic inference fails on some dynamic dimensions (onnxruntime 1.32); the runtime's own
        # optimizer and ONNX's inference, which follow, do without.
        if "symbolic shape inference" not in str(error):
            raise
        shapes.quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
    model = onnx.load(prepared)
    for number, node in enumerate(model.graph.node):
        # Nodes are excluded by name, and some exporters give none.
        node.name = node.name or f"{node.op_type}_{number}"
    onnx.save(model, prepared)
    return prepared


@contextmanager
def _working_in(folder: Path) -> Iterator[None]:
    """Makes `folder` the working directory: onnxruntime leaves an intermediate model there if its
    symbolic shape inference fails."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _dynamic(plain: Path, options: ExportOptions) -> Any:
    onnx = need("onnx", extra=EXTRA)
    quantization = need("onnxruntime.quantization", extra=EXTRA)
    prepared, quantized = prepare(plain), plain.with_name("quantized.onnx")
    if not {node.op_type for node in onnx.load(prepared).graph.node}.intersection(DYNAMIC):
        raise RuntimeError(f"the network has no {listed(DYNAMIC)} to quantize")
    quantization.quantize_dynamic(
        str(prepared),
        str(quantized),
        # Dynamically quantized convolutions ran at 0.05 to 0.25 times the speed of fp32.
        op_types_to_quantize=list(DYNAMIC),
        weight_type=quantization.QuantType.QInt8,
        nodes_to_exclude=list(options.excluded_operators),
        per_channel=True,
        reduce_range=options.reduce_range,
    )
    return onnx.load(quantized)


def _static(
    prepared: Path,
    cache: Path,
    calibration_method: Any,
    kinds: list[str] | None,
    options: ExportOptions,
) -> Any:
    onnx = need("onnx", extra=EXTRA)
    quantization = need("onnxruntime.quantization", extra=EXTRA)
    quantized = prepared.with_name("quantized.onnx")
    quantization.quantize_static(
        str(prepared),
        str(quantized),
        None,
        quant_format=quantization.QuantFormat.QDQ,
        # Signed activations, the default, ran at 0.2 to 1.6 times the speed of fp32 on x86.
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        per_channel=True,
        reduce_range=options.reduce_range,
        calibrate_method=calibration_method,
        op_types_to_quantize=kinds,
        nodes_to_exclude=list(options.excluded_operators),
        calibration_cache_path=cache,
    )
    return _with_float_outputs(onnx.load(quantized))


def _with_float_outputs(model: Any) -> Any:
    """`model` without quantizers behind the matrix products that are its outputs.

    They would clip and round an output that is float anyway, and products are no faster with them:
    10 dB where calibration had not seen the extremes.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    readers = Counter(name for node in model.graph.node for name in node.input)
    for output in model.graph.output:
        wide = makers.get(output.name)
        if wide is None or wide.op_type != "DequantizeLinear":
            continue
        narrow = makers.get(wide.input[0])
        product = makers.get(narrow.input[0]) if narrow else None
        if narrow is None or product is None or product.op_type not in ("Gemm", "MatMul"):
            continue
        if readers[narrow.output[0]] > 1 or readers[wide.output[0]] or readers[narrow.input[0]] > 1:
            continue
        product.output[0] = output.name
        model.graph.node.remove(narrow)
        model.graph.node.remove(wide)
    return model


def _measure(
    prepared: Path,
    calibration: Sequence[Inputs],
    method: str,
    cache: Path,
    kinds: list[str] | None,
) -> Any:
    """Writes the range of every activation into `cache`; returns the method the quantizer reads it
    by."""
    calibrate = need("onnxruntime.quantization.calibrate", extra=EXTRA)
    ranges_by = method.removeprefix("linear-")
    known = calibrate.CalibrationMethod
    named = {"percentile": known.Percentile, "mse": known.Percentile, "entropy": known.Entropy}
    chosen = named.get(ranges_by, known.MinMax)
    options: dict[str, Any] = {"symmetric": False}
    if chosen is not known.MinMax:
        options |= {"num_bins": BINS, "num_quantized_bins": QUANTIZED_BINS}
        options |= {"percentile": PERCENTILE}
    calibrator = calibrate.create_calibrator(
        str(prepared),
        kinds,
        augmented_model_path=str(prepared.with_name("augmented.onnx")),
        calibrate_method=chosen,
        extra_options=options,
    )
    calibrator.collect_data(_Reader(calibration))
    found = calibrator.compute_data()
    if ranges_by == "mse":
        histograms = calibrator.collector.histogram_dict
        ranges = {name: least_error(*histogram[:4]) for name, histogram in histograms.items()}
        # Ranges without histograms have the form of min-max.
        chosen = known.MinMax
        found = calibrate.TensorsData(chosen, {**_ranges(found), **ranges})
    calibrate.save_tensors_data(found, cache)
    return chosen


def _ranges(found: Any) -> dict[str, Any]:
    import numpy as np

    return {name: tuple(map(np.float32, data.range_value)) for name, data in found.items()}


def least_error(
    counts: NDArray[np.int64], edges: NDArray[np.float32], least: float, most: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The range whose 8-bit codes represent a histogram's values with the least squared error.

    A value inside has the uniform error of a step, a value outside its distance to the range.

    Args:
        least, most: the extremes of the values: the histogram's edges may be wider, and after a
            ReLU, which the quantizer removes, a range below zero would let negative values through.

    Source: Choukroun et al. 2019, arXiv:1902.06822, which searches symmetric ranges this way.
    """
    import numpy as np

    middles = (edges[1:] + edges[:-1]) / 2
    low, high = min(float(least), 0.0), max(float(most), 0.0)
    factors = np.linspace(0.25, 1.0, SHRINKS)
    best, smallest = (low, high), float("inf")
    for first in factors if low < 0 else (1.0,):
        for last in factors if high > 0 else (1.0,):
            ends = low * float(first), high * float(last)
            beyond = middles - np.clip(middles, *ends)
            step = (ends[1] - ends[0]) / 255
            error = float((counts * (beyond**2 + step**2 / 12)).sum())
            if error < smallest:
                best, smallest = ends, error
    return np.array(best[0], dtype=np.float32), np.array(best[1], dtype=np.float32)


def _blocks(plain: Path, method: str, excluded: Sequence[str]) -> Any:
    onnx = need("onnx", extra=EXTRA)
    blocks = need("onnxruntime.quantization.matmul_nbits_quantizer", extra=EXTRA)
    model = _as_products(onnx, onnx.load(prepare(plain)))
    if method == "hqq":
        config = blocks.HQQWeightOnlyQuantConfig(block_size=32, bits=4)
    else:
        size = int(method.removeprefix("block-"))
        config = blocks.DefaultWeightOnlyQuantConfig(block_size=size, is_symmetric=False, bits=4)
    quantizer = blocks.MatMulNBitsQuantizer(
        model, nodes_to_exclude=list(excluded), algo_config=config
    )
    quantizer.process()
    quantized = quantizer.model.model
    if not any(node.op_type == "MatMulNBits" for node in quantized.graph.node):
        raise RuntimeError("the network has no product with a constant matrix to quantize")
    return quantized


def _as_products(onnx: Any, model: Any) -> Any:
    """`model` with every Gemm of a constant matrix as MatMul and Add, which the quantizer knows."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        plain = {"alpha": 1.0, "beta": 1.0, "transA": 0}
        values = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
        usual = all(values.get(name, value) == value for name, value in plain.items())
        if node.op_type != "Gemm" or not usual or node.input[1] not in constants:
            nodes.append(node)
            continue
        matrix = onnx.numpy_helper.to_array(constants[node.input[1]])
        name = f"{node.input[1]}_by_row"
        if name not in constants:
            turned = matrix.T.copy() if values.get("transB") else matrix
            constants[name] = onnx.numpy_helper.from_array(turned, name)
            model.graph.initializer.append(constants[name])
        biased = len(node.input) > 2 and node.input[2] != ""
        product = f"{node.output[0]}_product" if biased else node.output[0]
        nodes.append(onnx.helper.make_node("MatMul", [node.input[0], name], [product], node.name))
        if biased:
            ends = [product, node.input[2]], list(node.output)
            nodes.append(onnx.helper.make_node("Add", *ends, f"{node.name}_bias"))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    unused = [tensor for tensor in model.graph.initializer if tensor.name not in used]
    for tensor in unused:
        model.graph.initializer.remove(tensor)
    return model


class _Reader:
    """Calibration samples as an ONNX Runtime CalibrationDataReader."""

    def __init__(self, samples: Sequence[Inputs]) -> None:
        self._samples = iter(samples)

    def get_next(self) -> dict[str, Any] | None:
        sample = next(self._samples, None)
        return sample and {name: tensor.numpy() for name, tensor in sample.items()}
