"""Every tensor that a saved file computes on the way to its outputs, in the order it does.

They are read here, on this machine: from a copy whose inner tensors are outputs too, or from an
interpreter that keeps them. Integers are given as the real numbers they stand for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from edgekd.artifacts.artifact import Artifact
from edgekd.artifacts.graph import Graph
from edgekd.artifacts.quantization_params import as_numbers
from edgekd.artifacts.weights import Constant, Found, Stored, _counted
from edgekd.errors import listed
from edgekd.formats.coreml import inspect as coreml
from edgekd.formats.litert import inspect as litert
from edgekd.formats.ncnn import inspect as ncnn
from edgekd.formats.onnx import inspect as onnx
from edgekd.formats.openvino import inspect as openvino
from edgekd.network.preprocessing import turned
from edgekd.system.packages import need


def as_taken(artifact: Artifact, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A network's `inputs` as the file takes them: images turned, real values as its numbers."""
    arrays = {n: t.numpy() for n, t in turned(inputs, artifact.channels_last).items()}
    numbers = as_numbers(arrays, artifact.quantization)
    return {name: torch.from_numpy(value) for name, value in numbers.items()}


TENSOR_READERS: dict[str, Callable[[Path, Mapping[str, Tensor]], Found]] = {
    "onnx": onnx.run_tensors,
    "openvino": openvino.run_tensors,
    "litert": litert.run_tensors,
    "coreml": coreml.run_tensors,
    "ncnn": ncnn.run_tensors,
}
"""By format."""


def rounded(path: Path, format: str) -> dict[str, str]:
    """By tensor of the file at `path` that is rounded to integers right behind, the real numbers
    those stand for: with fusions, as it runs, the first is not there."""
    if format == "onnx":
        nodes = need("onnx", extra="onnx").load(path).graph.node
        whole = {n.input[0]: n.output[0] for n in nodes if n.op_type == "QuantizeLinear"}
        real = {n.input[0]: n.output[0] for n in nodes if n.op_type == "DequantizeLinear"}
        return {name: real[value] for name, value in whole.items() if value in real}
    if format == "openvino":
        model = need("openvino", extra="openvino").Core().read_model(path)
        return {
            op.input_value(0).get_node().get_friendly_name(): op.get_friendly_name()
            for op in model.get_ordered_ops()
            if op.get_type_name() == "FakeQuantize"
        }
    return {}


def read_graph(path: Path, format: str) -> Graph:
    """The operators in the file or package at `path`.

    Args:
        path: as a runtime is given it.
        format: onnx, openvino, litert, coreml or ncnn.
    Raises:
        ValueError: the format is none of these, or the file is not one of that format.
        OSError: it is not there.
        MissingPackageError: the package that reads the format is not installed.
    """
    if format not in READERS:
        raise ValueError(f"operators are read from {listed(READERS)} files, not {format}")
    return READERS[format](path)


READERS: dict[str, Callable[[Path], Graph]] = {
    "onnx": onnx.read_graph,
    "openvino": openvino.read_graph,
    "litert": litert.read_graph,
    "coreml": coreml.read_graph,
    "ncnn": ncnn.read_graph,
}


def read_stored(path: Path, format: str) -> Stored | None:
    """The weights in the file or package at `path`; None of a format that is not read.

    Raises:
        OSError: it is not there.
        MissingPackageError: the package that reads the format is not installed.
    """
    reader = WEIGHT_READERS.get(format)
    return Stored(Counter(dict(_counted(reader(path))))) if reader else None


WEIGHT_READERS: dict[str, Callable[[Path], Iterator[Constant]]] = {
    "onnx": onnx.read_weights,
    "openvino": openvino.read_weights,
    "litert": litert.read_weights,
    "coreml": coreml.read_weights,
}
