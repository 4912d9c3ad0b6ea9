"""Reads saved files on this machine: operators, weights, and every tensor computed on the way.

Inner tensors come from a copy of the file that has them as outputs too, or from an interpreter that
keeps them. Integers are given as the real numbers they stand for.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from edgekd.artifacts.artifact import Artifact
from edgekd.artifacts.graph import Graph
from edgekd.artifacts.quantization_params import as_numbers
from edgekd.artifacts.weights import NamedTensors, StoredWeights, count_weights
from edgekd.errors import listed
from edgekd.formats import find_format, format_names
from edgekd.formats.capabilities import member, operator_roles
from edgekd.network.preprocessing import to_nhwc


def _formats_with(name: str) -> list[str]:
    return [format for format in format_names() if hasattr(find_format(format), name)]


def has_graph_reader(format: str) -> bool:
    """Whether the operators in a file of `format` can be read."""
    return hasattr(find_format(format), "read_graph")


def has_tensor_reader(format: str) -> bool:
    """Whether the inner tensors of a file of `format` can be read."""
    return hasattr(find_format(format), "run_tensors")


def tensor_formats() -> list[str]:
    """The formats whose files' inner tensors can be read."""
    return _formats_with("run_tensors")


def read_graph(path: Path, format: str) -> Graph:
    """The operators in the file or package at `path`.

    Args:
        path: as a runtime is given it.

    Raises:
        ValueError: the format has no reader, or the file is not one of that format.
        OSError: there is no such file.
        MissingPackageError: the package that reads the format is not installed.
    """
    known = _formats_with("read_graph")
    if format not in known:
        raise ValueError(f"operators are read from {listed(known)} files, not {format}")
    graph: Graph = member(format, "read_graph", None)(path)
    return graph


def read_weights(path: Path, format: str) -> StoredWeights | None:
    """The weights in the file or package at `path`; None where the format has no reader.

    Raises:
        OSError: there is no such file.
        MissingPackageError: the package that reads the format is not installed.
    """
    reader = member(format, "read_weights", None)
    if reader is None:
        return None
    return StoredWeights(count_weights(reader(path)), operator_roles(format).weighted)


def run_tensors(path: Path, format: str, inputs: Mapping[str, Tensor]) -> NamedTensors:
    """Every tensor of real numbers that the file computes for `inputs`, in the order it does.

    Args:
        inputs: as the file takes them; see `as_taken`.
    """
    tensors: NamedTensors = member(format, "run_tensors", None)(path, inputs)
    return tensors


def quantized_tensors(path: Path, format: str) -> dict[str, str]:
    """The tensors of the file at `path` that are quantized right behind, each with the name of the
    dequantized one: a runtime that fuses the two computes that alone."""
    reader = member(format, "quantized_tensors", None)
    return reader(path) if reader else {}


def as_taken(artifact: Artifact, inputs: Mapping[str, Tensor]) -> NamedTensors:
    """A network's `inputs` as the file takes them: images in its layout, values as its integers."""
    arrays = {n: t.numpy() for n, t in to_nhwc(inputs, artifact.channels_last).items()}
    numbers = as_numbers(arrays, artifact.quantization)
    return {name: torch.from_numpy(value) for name, value in numbers.items()}
