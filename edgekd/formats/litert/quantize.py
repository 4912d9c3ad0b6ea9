"""Quantizes LiteRT files by ai-edge-quantizer.

Source: https://github.com/google-ai-edge/ai-edge-quantizer
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.errors import listed
from edgekd.formats.integer_io import with_headroom
from edgekd.formats.litert import integer_io
from edgekd.formats.options import ExportOptions
from edgekd.system.packages import need

if TYPE_CHECKING:
    from edgekd.data import Inputs

EXTRA = "litert"
SIGNATURE = "serving_default"
LINEAR = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D")

_STATIC = "static, weights per channel"
_ONLY = f"; only {listed(LINEAR)}"
METHODS: dict[str, dict[str, str]] = {
    "int8": {
        "min-max": f"{_STATIC}; activations by true min-max",
        "linear": f"{_STATIC}; activations by true min-max{_ONLY}",
        "moving-average": f"{_STATIC}; activations by a moving average of ranges",
        "linear-moving-average": f"{_STATIC}; activations by a moving average of ranges{_ONLY}",
        "mse": f"{_STATIC}; activations by true min-max, weights of least squared error",
    },
    "int8-int16": {
        "min-max": f"{_STATIC}; activations in 16 bits by true min-max",
        "linear": f"{_STATIC}; activations in 16 bits by true min-max{_ONLY}",
    },
    "int8-dynamic": {"dynamic": "weights per channel, activations quantized at run time"},
    "int8-weights": {"channels": "weights per channel, widened before they are used"},
    "int4-weights": {
        "dynamic": "weights per channel in 4 bits, activations in int8 at run time",
        "octav": "weights per channel in 4 bits, widened before they are used, clipped by OCTAV",
    },
}

WEIGHT_RECIPES = {
    ("int8-dynamic", "dynamic"): ("dynamic_wi8_afp32", "MIN_MAX_UNIFORM_QUANT"),
    ("int8-weights", "channels"): ("weight_only_wi8_afp32", "MIN_MAX_UNIFORM_QUANT"),
    ("int4-weights", "dynamic"): ("dynamic_wi4_afp32", "MIN_MAX_UNIFORM_QUANT"),
    ("int4-weights", "octav"): ("weight_only_wi4_afp32", "OCTAV"),
}
"""ai-edge-quantizer's own recipe and algorithm of each method that needs no calibration."""


def quantize(
    plain: Path, method: str, calibration: Sequence[Inputs], path: Path, options: ExportOptions
) -> None:
    """Writes the file at `plain`, quantized by `method` in the scheme of `options`, to `path`."""
    scheme, io = options.scheme, options.io
    recipes = need("ai_edge_quantizer.recipe", extra=EXTRA)
    _flatten_biases(plain)
    if (scheme, method) in WEIGHT_RECIPES:
        name, algorithm = WEIGHT_RECIPES[scheme, method]
        recipe = getattr(recipes, name)(algorithm_key=recipes.AlgorithmName[algorithm])
        ranges = None
    else:
        recipe = _static(method, 16 if scheme == "int8-int16" else 8)
        ranges = _ranges(plain, calibration, method, [*recipe, *_io_entries(io)])
    # The last entry wins: an excluded layer has no say in the type of inputs and outputs.
    io_entries = [] if ranges is None else _io_entries(io)
    recipe = [*recipe, *_excluding(options.excluded_operators), *io_entries]
    quantizer = need("ai_edge_quantizer.quantizer", extra=EXTRA).Quantizer(str(plain), recipe)
    quantizer.quantize(ranges).export_model(str(path), overwrite=True)
    check_outputs(path)
    if io != "float32" and ranges is not None:
        ends = {n: (float(r["min"].min()), float(r["max"].max())) for n, r in ranges.items()}
        integer_io.finish(path, ends, io)


def _flatten_biases(path: Path) -> None:
    """Gives the biases of fully connected operators in the file at `path` one axis.

    litert-torch folds a layer scale, as ConvNeXt has, into biases of four axes. ai-edge-quantizer
    0.10 puts their scales along the first axis, and the file does not load.
    """
    schema = need("ai_edge_litert.schema_py_generated", extra=EXTRA)
    files = need("ai_edge_litert.tools.flatbuffer_utils", extra=EXTRA)
    model = files.read_model(str(path))
    connected = schema.BuiltinOperator.FULLY_CONNECTED
    changed = False
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            inputs = [int(index) for index in operator.inputs]
            if code.builtinCode != connected or len(inputs) < 3 or inputs[2] < 0:
                continue
            bias = graph.tensors[inputs[2]]
            size = int(graph.tensors[inputs[1]].shape[0])
            if len(bias.shape) > 1 and _count(bias.shape) == size:
                bias.shape, changed = [size], True
    if changed:
        files.write_model(model, str(path))


def _count(shape: Sequence[int]) -> int:
    return math.prod(int(size) for size in shape)


def _ranges(plain: Path, calibration: Sequence[Inputs], method: str, recipe: Any) -> Any:
    """The range of every tensor of the file at `plain`, in the quantizer's form."""
    calibrator = need("ai_edge_quantizer.calibrator", extra=EXTRA)
    manager = need("ai_edge_quantizer.recipe_manager", extra=EXTRA)
    updates = need("ai_edge_quantizer.utils.qsv_utils", extra=EXTRA)
    # litert-torch turns 64-bit integers into 32-bit ones.
    arrays = [
        {
            name: tensor.int().numpy() if str(tensor.dtype) == "torch.int64" else tensor.numpy()
            for name, tensor in sample.items()
        }
        for sample in calibration
    ]
    recipes = manager.RecipeManager()
    recipes.load_quantization_recipe(recipe)
    # The quantizer's own calibrate() averages with smoothing 0.95, so the first sample decides and
    # later extremes are clipped: 9 to 19 dB less than the true minimum and maximum.
    averages = method.endswith("moving-average")
    update = updates.moving_average_update if averages else updates.min_max_update
    ranges = calibrator.Calibrator(plain.read_bytes(), qsv_update_func=update)
    ranges.calibrate({SIGNATURE: arrays}, recipes)
    return _with_headroom(plain, ranges.get_model_qsvs())


def _with_headroom(plain: Path, ranges: Any) -> Any:
    """`ranges` with headroom for the outputs of the file at `plain`: a clipped output is lost."""
    interpreter = need("ai_edge_litert.interpreter", extra=EXTRA).Interpreter(model_path=str(plain))
    outputs = {str(entry["name"]) for entry in interpreter.get_output_details()}
    for name in outputs.intersection(ranges):
        low, high = with_headroom(ranges[name]["min"], ranges[name]["max"])
        ranges[name] = {**ranges[name], "min": low, "max": high}
    return ranges


def _static(method: str, activation_bits: int) -> list[Any]:
    types = need("ai_edge_quantizer.qtyping", extra=EXTRA)
    names = types.TFLOperationName
    algorithms = need("ai_edge_quantizer.recipe", extra=EXTRA).AlgorithmName
    recipes = need("ai_edge_quantizer.recipe_manager", extra=EXTRA).RecipeManager()
    algorithm = {"mse": algorithms.MSE}
    for name in LINEAR if method.startswith("linear") else ("*",):
        recipes.add_static_config(
            regex=".*",
            operation_name=names(name),
            activation_num_bits=activation_bits,
            weight_num_bits=8,
            algorithm_key=algorithm.get(method, algorithms.MIN_MAX_UNIFORM_QUANT),
        )
    entries: list[Any] = recipes.get_quantization_recipe()
    return entries


def _io_entries(io: str) -> list[Any]:
    """The recipe's entries for inputs and outputs: unquantized, or in 8 bits."""
    names = need("ai_edge_quantizer.qtyping", extra=EXTRA).TFLOperationName
    algorithms = need("ai_edge_quantizer.recipe", extra=EXTRA).AlgorithmName
    recipes = need("ai_edge_quantizer.recipe_manager", extra=EXTRA).RecipeManager()
    for name in (names.INPUT, names.OUTPUT):
        if io == "float32":
            recipes.add_quantization_config(
                regex=".*", operation_name=name, algorithm_key=algorithms.NO_QUANTIZE
            )
        else:
            recipes.add_static_config(
                regex=".*",
                operation_name=name,
                activation_num_bits=8,
                weight_num_bits=8,
                algorithm_key=algorithms.MIN_MAX_UNIFORM_QUANT,
            )
    entries: list[Any] = recipes.get_quantization_recipe()
    return entries


def _excluding(operators: Sequence[str]) -> list[Any]:
    """The recipe's entries that leave the operators with these first outputs in float."""
    import re

    types = need("ai_edge_quantizer.qtyping", extra=EXTRA)
    algorithms = need("ai_edge_quantizer.recipe", extra=EXTRA).AlgorithmName
    recipes = need("ai_edge_quantizer.recipe_manager", extra=EXTRA).RecipeManager()
    for name in operators:
        recipes.add_quantization_config(
            regex=f"^{re.escape(name)};?$",
            operation_name=types.TFLOperationName.ALL_SUPPORTED,
            algorithm_key=algorithms.NO_QUANTIZE,
        )
    entries: list[Any] = recipes.get_quantization_recipe()
    return entries


def layers(path: Path) -> list[str]:
    """The operators with weights in the file at `path`, in order, by their first outputs' names."""
    interpreter = need("ai_edge_litert.interpreter", extra=EXTRA).Interpreter(
        model_path=str(path), experimental_op_resolver_type=_no_delegates()
    )
    names = {int(entry["index"]): str(entry["name"]) for entry in interpreter.get_tensor_details()}
    return [
        names[int(operator["outputs"][0])]
        for operator in interpreter._get_ops_details()
        if operator["op_name"] in (*LINEAR, "TRANSPOSE_CONV")
    ]


def _no_delegates() -> Any:
    """The interpreter's kernels without XNNPACK, which would replace operators before they are
    listed."""
    resolvers = need("ai_edge_litert.interpreter", extra=EXTRA).OpResolverType
    return resolvers.BUILTIN_WITHOUT_DEFAULT_DELEGATES


def check_outputs(path: Path) -> None:
    """Raises a RuntimeError if the quantizer cut an output of the file at `path` off its signature.

    ai-edge-quantizer 0.10 does so where a float output is also the input of another operator: the
    file does not load, or loads and has no value for that output.
    """
    interpreter = need("ai_edge_litert.interpreter", extra=EXTRA).Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    named = interpreter.get_signature_runner().get_output_details()
    real = {int(entry["index"]) for entry in interpreter.get_output_details()}
    lost = [name for name, entry in named.items() if int(entry["index"]) not in real]
    if lost:
        raise RuntimeError(f"ai-edge-quantizer cut off {listed(lost)}: another operator reads it")
