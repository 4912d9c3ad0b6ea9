"""LiteRT (TFLite), written by litert-torch and quantized by ai-edge-quantizer.

Source: https://github.com/google-ai-edge/litert-torch,
https://github.com/google-ai-edge/ai-edge-quantizer
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from edgekd.errors import listed
from edgekd.formats._ways import exported, first_way
from edgekd.need import need

if TYPE_CHECKING:
    from edgekd.data import Inputs
    from edgekd.network import Network

SUFFIX = ".tflite"
RUNTIME = "litert"
EXTRA = "litert"
PACKAGES: tuple[str, ...] = ("litert_torch", "ai_edge_litert", "ai_edge_quantizer")
SCHEMES = {
    "fp32": "litert-torch",
    "fp16": "weights in fp16, widened when XNNPACK packs them",
    "int8": "static, activations by true min-max, weights per channel, float inputs and outputs",
    "int8-dynamic": "weights per channel, activations quantized while it runs",
    "int8-weights": "weights per channel, widened before they are used",
}
SPARSE = (
    "XNNPACK skips zeros of 1x1 convolutions in networks of only such, in a sparse encoding that "
    "the converter does not write: no faster, smaller when zipped "
    "(tensorflow.org/model_optimization/guide/pruning/pruning_for_on_device_inference)"
)

SIGNATURE = "serving_default"
LINEAR = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D")
WEIGHT_RECIPES = {"int8-dynamic": "dynamic_wi8_afp32", "int8-weights": "weight_only_wi8_afp32"}
"""ai-edge-quantizer's own recipes of schemes that need no calibration."""


def convert(network: Network, scheme: str, calibration: Sequence[Inputs], path: Path) -> str:
    """Writes `network` to `path`; see `Format`."""
    need("litert_torch", extra=EXTRA)
    program = exported(network)
    edge_model, note = first_way(
        {
            "torch.export": lambda: _converted(_simplified(program), network),
            "torch.export, decomposed": lambda: _converted(
                program.run_decompositions().module(), network
            ),
        }
    )
    if scheme == "fp32":
        edge_model.export(str(path))
        return SCHEMES[scheme] + note
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch) / "plain.tflite"
        edge_model.export(str(plain))
        if scheme == "fp16":
            _halve(plain, path)
            return SCHEMES[scheme] + note
        if scheme in WEIGHT_RECIPES:
            _quantize_weights(plain, path, WEIGHT_RECIPES[scheme])
            return SCHEMES[scheme] + note
        return _quantize(plain, calibration, path) + note


def _converted(module: Any, network: Network) -> Any:
    litert_torch = need("litert_torch", extra=EXTRA)
    return litert_torch.convert(module, sample_kwargs=dict(network.example), strict_export=False)


def _simplified(program: Any) -> Any:
    """The exported program as a module of operators that litert-torch 0.10 reads rightly, and that
    LiteRT runs fast."""
    from edgekd.formats._decompositions import LITERT
    from edgekd.formats._tall import Raised, has_signals

    if any(node.target in LITERT for node in program.graph.nodes):
        program = program.run_decompositions(LITERT)
    return Raised(program) if has_signals(program) else _pooled(program.module())


def _pooled(module: Any) -> Any:
    """`module` with means and maxima over an image's height and width that keep both axes at first.

    litert-torch 0.10 puts a transpose of the whole image before those that drop them.
    """
    aten = torch.ops.aten
    for node in list(module.graph.nodes):
        if node.target not in (aten.mean.dim, aten.amax.default) or len(node.args) > 2:
            continue
        image, axes = node.args
        if node.kwargs or image.meta["val"].ndim != 4 or {axis % 4 for axis in axes} != {2, 3}:
            continue
        node.args = (image, axes, True)
        with module.graph.inserting_after(node):
            shape = list(node.meta["val"].shape)
            flat = module.graph.call_function(aten.reshape.default, (node, shape))
        node.replace_all_uses_with(flat, delete_user_cb=lambda user, flat=flat: user is not flat)
    module.recompile()
    return module


def _halve(plain: Path, path: Path) -> None:
    types = need("ai_edge_quantizer.qtyping", extra=EXTRA)
    quantizer = need("ai_edge_quantizer.quantizer", extra=EXTRA).Quantizer(str(plain))
    quantizer.update_quantization_recipe(
        regex=".*",
        operation_name=types.TFLOperationName.ALL_SUPPORTED,
        op_config=types.OpQuantizationConfig(
            weight_tensor_config=types.TensorQuantizationConfig(
                num_bits=16, dtype=types.TensorDataType.FLOAT
            ),
            compute_precision=types.ComputePrecision.FLOAT,
        ),
        algorithm_key=need("ai_edge_quantizer.recipe", extra=EXTRA).AlgorithmName.FLOAT_CASTING,
    )
    quantizer.quantize().export_model(str(path), overwrite=True)


def _quantize_weights(plain: Path, path: Path, name: str) -> None:
    recipe = getattr(need("ai_edge_quantizer.recipe", extra=EXTRA), name)()
    quantizer = need("ai_edge_quantizer.quantizer", extra=EXTRA).Quantizer(str(plain), recipe)
    quantizer.quantize().export_model(str(path), overwrite=True)
    _check_outputs(path)


def _quantize(plain: Path, calibration: Sequence[Inputs], path: Path) -> str:
    # litert-torch makes 64-bit integers 32-bit.
    arrays = [
        {
            name: tensor.int().numpy() if str(tensor.dtype) == "torch.int64" else tensor.numpy()
            for name, tensor in sample.items()
        }
        for sample in calibration
    ]
    if "SOFTMAX" in _operators(plain):
        # Attention networks collapse to 10 dB, and run slower than fp32, with all operators int8.
        _quantize_operators(plain, arrays, path, LINEAR)
        return f"{SCHEMES['int8']}; only {listed(LINEAR)}: it has attention"
    _quantize_operators(plain, arrays, path, ("*",))
    return SCHEMES["int8"]


def _quantize_operators(
    plain: Path, arrays: list[dict[str, Any]], path: Path, operators: tuple[str, ...]
) -> None:
    calibrator = need("ai_edge_quantizer.calibrator", extra=EXTRA)
    manager = need("ai_edge_quantizer.recipe_manager", extra=EXTRA)
    updates = need("ai_edge_quantizer.utils.qsv_utils", extra=EXTRA)
    recipe = _recipe(operators)
    recipes = manager.RecipeManager()
    recipes.load_quantization_recipe(recipe)
    # The quantizer's own calibrate() averages with smoothing 0.95, so the first sample decides and
    # later extremes are clipped: 9 to 19 dB less than the true minimum and maximum.
    ranges = calibrator.Calibrator(plain.read_bytes(), qsv_update_func=updates.min_max_update)
    ranges.calibrate({SIGNATURE: arrays}, recipes)
    quantizer = need("ai_edge_quantizer.quantizer", extra=EXTRA).Quantizer(str(plain), recipe)
    quantizer.quantize(ranges.get_model_qsvs()).export_model(str(path), overwrite=True)
    _check_outputs(path)


def _check_outputs(path: Path) -> None:
    """Raises a RuntimeError where the quantizer has cut an output off its signature.

    Seen with ai-edge-quantizer 0.10, where a float output is an input of another operator too: the
    file then does not load, or loads and has no value for that output.
    """
    interpreter = need("ai_edge_litert.interpreter", extra=EXTRA).Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    named = interpreter.get_signature_runner().get_output_details()
    real = {int(entry["index"]) for entry in interpreter.get_output_details()}
    lost = [name for name, entry in named.items() if int(entry["index"]) not in real]
    if lost:
        raise RuntimeError(f"ai-edge-quantizer cut off {listed(lost)}: another operator reads it")


def _recipe(operators: tuple[str, ...]) -> Any:
    types = need("ai_edge_quantizer.qtyping", extra=EXTRA)
    names = types.TFLOperationName
    algorithms = need("ai_edge_quantizer.recipe", extra=EXTRA).AlgorithmName
    recipes = need("ai_edge_quantizer.recipe_manager", extra=EXTRA).RecipeManager()
    for name in operators:
        recipes.add_static_config(
            regex=".*",
            operation_name=names(name),
            activation_num_bits=8,
            weight_num_bits=8,
            algorithm_key=algorithms.MIN_MAX_UNIFORM_QUANT,
        )
    for name in (names.INPUT, names.OUTPUT):
        recipes.add_quantization_config(
            regex=".*", operation_name=name, algorithm_key=algorithms.NO_QUANTIZE
        )
    return recipes.get_quantization_recipe()


def _operators(path: Path) -> set[str]:
    """The operator types in the file at `path`."""
    interpreter = need("ai_edge_litert.interpreter", extra=EXTRA).Interpreter(model_path=str(path))
    return {str(entry["op_name"]) for entry in interpreter._get_ops_details()}


def quantization(path: Path) -> dict[str, tuple[float, int]]:
    """By name, scale and zero point of inputs and outputs that are whole numbers in the file."""
    interpreter = need("ai_edge_litert.interpreter", extra=EXTRA).Interpreter(model_path=str(path))
    runner = interpreter.get_signature_runner()
    tensors = {**runner.get_input_details(), **runner.get_output_details()}
    steps = {name: entry["quantization"] for name, entry in tensors.items()}
    return {name: (float(scale), int(zero)) for name, (scale, zero) in steps.items() if scale}
