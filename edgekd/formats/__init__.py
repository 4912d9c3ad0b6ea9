"""The formats an artifact can have, one file each: how a network becomes a file of that format."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edgekd.artifacts.artifact import Artifact
from edgekd.artifacts.quantization_params import QuantizationParams
from edgekd.errors import EdgekdError
from edgekd.formats import coreml, litert, ncnn, onnx, openvino
from edgekd.formats import metadata as _metadata
from edgekd.formats.litert import integer_io as _litert_integer_io
from edgekd.formats.onnx import integer_io as _onnx_integer_io
from edgekd.formats.openvino import integer_io as _openvino_integer_io

if TYPE_CHECKING:
    from edgekd.data import Inputs
    from edgekd.network.network import Network
    from edgekd.recipe.bundle import Preprocessing


class Format(Protocol):
    """A module of this room.

    Attributes:
        SUFFIX: of the file or folder that the runtime is given.
        RUNTIME: what runs it, as the agent calls it.
        EXTRA: the optional dependencies it needs.
        PACKAGES: the packages of that extra that are imported, for converting and for running.
        SCHEMES: the precisions it can be written in here, each with how (its method).
        METHODS: of schemes that are quantized, the ways there are to do it, in the order in which
            they are tried: by scheme, name and how, in a sentence. The first is the usual one.
        SPARSE: what its runtime makes of weights that are zero, in a sentence, with the source.
    """

    SUFFIX: str
    RUNTIME: str
    EXTRA: str
    PACKAGES: tuple[str, ...]
    SCHEMES: dict[str, str]
    METHODS: dict[str, dict[str, str]]
    SPARSE: str

    def convert(
        self,
        network: Network,
        scheme: str,
        calibration: Sequence[Inputs],
        path: Path,
        *,
        method: str | None = None,
    ) -> str:
        """Writes `network` to `path` in `scheme`, by the format's own converter and quantizer.

        Args:
            method: of `METHODS[scheme]`; None: its first.

        Returns how: `SCHEMES[scheme]` or `METHODS[scheme][method]`, or what was done instead where
        that cannot be, which the candidate's row then says. What the converter raises is raised.
        """


FORMATS: dict[str, Format] = {
    "onnx": onnx,
    "openvino": openvino,
    "litert": litert,
    "coreml": coreml,
    "ncnn": ncnn,
}


def find_format(name: str) -> Format:
    """The format `name`: of this table, or an installed package's entry point `edgekd.formats`.

    Raises:
        KeyError: there is none.
    """
    if name in FORMATS:
        return FORMATS[name]
    found: Format = {entry.name: entry for entry in entry_points(group="edgekd.formats")}[
        name
    ].load()
    return found


def format_names() -> list[str]:
    """All formats there are."""
    return [*FORMATS, *(entry.name for entry in entry_points(group="edgekd.formats"))]


def embed(
    name: str,
    path: Path,
    metadata: Mapping[str, str],
    preprocessing: Mapping[str, Preprocessing],
) -> bool:
    """Puts `metadata` into the file at `path` of the format `name`, in the format's own place.

    Args:
        metadata: name, version, target, scheme, outputs (logits or probabilities); description,
            licence, preprocessing and labels, a line each, if there are any.
        preprocessing: by input, what an app does before the model.

    Returns whether the format has one: ncnn has none, and of a third party's edgekd knows none.
    """
    if name == "litert":
        _metadata.litert(path, metadata, preprocessing)
    elif name in _metadata.PLACES:
        _metadata.PLACES[name](path, metadata)
    else:
        return False
    return True


QUANTIZATION: dict[str, Callable[[Path], dict[str, QuantizationParams]]] = {
    "onnx": _onnx_integer_io.quantization,
    "openvino": _openvino_integer_io.quantization,
    "litert": _litert_integer_io.quantization,
}


def quantization(name: str, path: Path) -> dict[str, QuantizationParams]:
    """By name, what the whole numbers that the file at `path` takes and gives stand for, by the
    file itself; ids, raw images and the like are not among them."""
    return QUANTIZATION[name](path) if name in QUANTIZATION else {}


def read_quantization(artifact: Artifact) -> Artifact:
    """`artifact`; of one without a card with the `quantization` that its own file tells.

    Raises:
        MissingPackageError: the package that reads the format is not installed.
    """
    if artifact.lineage or artifact.format not in QUANTIZATION:
        return artifact
    try:
        steps = quantization(artifact.format, artifact.path)
    except EdgekdError:
        raise
    except Exception:  # noqa: BLE001  What is no such file its runtime refuses, and says why.
        return artifact
    told = {name: vars(step) for name, step in steps.items()}
    return replace(artifact, lineage={"quantization": told})
