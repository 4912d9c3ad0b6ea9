"""Reads the graph and the intermediate tensors of an ncnn network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from edgekd.artifacts.graph import Graph, OperatorKind
from edgekd.artifacts.weights import Found, _floats
from edgekd.formats.ncnn.param import INPUT, WHOLE, read_param
from edgekd.system.packages import need


def run_tensors(path: Path, inputs: Mapping[str, Tensor]) -> Found:
    """By ncnn in float32, one sample."""
    library = need("ncnn", extra="ncnn")
    net = library.Net()
    for option in dir(net.opt):
        if option.startswith(("use_fp16_", "use_bf16_")):
            setattr(net.opt, option, False)
    net.load_param(str(path))
    net.load_model(str(path.with_suffix(".bin")))
    layers = read_param(path)
    whole = {layer.gives[0] for layer in layers if layer.values.get(str(WHOLE)) == "1"}
    extractor = net.create_extractor()
    extractor.set_light_mode(False)
    for name, tensor in inputs.items():
        array = tensor.numpy().astype(np.int32 if name in whole else np.float32)
        extractor.input(name, library.Mat(array[0] if array.ndim > 1 else array).clone())
    names = [name for layer in layers if layer.kind != INPUT for name in layer.gives]
    found = {name: np.array(extractor.extract(name)[1])[None] for name in names}
    return _floats(found)


def read_graph(path: Path) -> Graph:
    """Source: github.com/Tencent/ncnn/wiki/param-and-model-file-structure.

    What pnnx did not name is a number.
    """
    layers = read_param(path)
    inner = [layer for layer in layers if layer.kind not in (INPUT, "Split", "MemoryData")]
    kinds = Counter(OperatorKind(layer.kind) for layer in inner)
    read = {name for layer in layers for name in layer.takes}
    given = [name for layer in layers for name in layer.gives if not name.isdigit()]
    inputs = sum(layer.kind == INPUT for layer in layers)
    return Graph("ncnn", kinds, inputs, sum(name not in read for name in given))
