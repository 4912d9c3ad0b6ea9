"""Reads the graph and the intermediate tensors of an ncnn network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from edgekd.artifacts.graph import Graph, OperatorKind
from edgekd.artifacts.operators import OperatorRoles
from edgekd.artifacts.weights import NamedTensors, float_tensors
from edgekd.formats.ncnn.param import INPUT, IS_INTEGER, read_param
from edgekd.system.packages import need

OPERATORS = OperatorRoles(
    transposes=("Permute",),
    reshapes=("Reshape", "Flatten", "Squeeze", "ExpandDims"),
    gates=("Sigmoid", "TanH"),
    products=("InnerProduct", "Gemm", "MatMul"),
)


def run_tensors(path: Path, inputs: Mapping[str, Tensor]) -> NamedTensors:
    """Runs the file in ncnn in float32, on one sample."""
    library = need("ncnn", extra="ncnn")
    net = library.Net()
    for option in dir(net.opt):
        if option.startswith(("use_fp16_", "use_bf16_")):
            setattr(net.opt, option, False)
    net.load_param(str(path))
    net.load_model(str(path.with_suffix(".bin")))
    layers = read_param(path)
    integers = {layer.gives[0] for layer in layers if layer.values.get(str(IS_INTEGER)) == "1"}
    extractor = net.create_extractor()
    extractor.set_light_mode(False)
    for name, tensor in inputs.items():
        array = tensor.numpy().astype(np.int32 if name in integers else np.float32)
        extractor.input(name, library.Mat(array[0] if array.ndim > 1 else array).clone())
    names = [name for layer in layers if layer.kind != INPUT for name in layer.gives]
    return float_tensors({name: np.array(extractor.extract(name)[1])[None] for name in names})


def read_graph(path: Path) -> Graph:
    """The operators in the `.param` at `path`; an output that pnnx did not name has a number.

    Source: github.com/Tencent/ncnn/wiki/param-and-model-file-structure
    """
    layers = read_param(path)
    inner = [layer for layer in layers if layer.kind not in (INPUT, "Split", "MemoryData")]
    kinds = Counter(OperatorKind(layer.kind) for layer in inner)
    read = {name for layer in layers for name in layer.takes}
    given = [name for layer in layers for name in layer.gives if not name.isdigit()]
    inputs = sum(layer.kind == INPUT for layer in layers)
    outputs = sum(name not in read for name in given)
    return Graph("ncnn", kinds, inputs, outputs, OPERATORS)
