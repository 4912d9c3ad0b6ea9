"""A model file or folder that a runtime loads, with its facts."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekd.artifacts.card import card_signature, read_card
from edgekd.artifacts.external_data import check_external_data
from edgekd.artifacts.quantization_params import QuantizationParams
from edgekd.artifacts.signature import Signature
from edgekd.errors import Fault, RecipeError, listed
from edgekd.system.files import digest, path_bytes, path_digest, write_json

CARD = "artifact.json"

SUFFIXES = {
    ".onnx": "onnx",
    ".xml": "openvino",
    ".tflite": "litert",
    ".mlpackage": "coreml",
    ".param": "ncnn",
}


@dataclass(frozen=True)
class Artifact:
    """One exported model.

    Attributes:
        path: the file or folder (`.mlpackage`) that the runtime loads.
        format: the name of its format, such as onnx.
        scheme: its precision; None for a file that edgekd did not write.
        sha256: the digest of all its files.
        size_bytes: the size of all its files (an OpenVINO model is its `.xml` and its `.bin`).
        zipped_bytes: their size after deflate, each file alone, as in app packages; None for a file
            that edgekd did not write.
        signature: its inputs and outputs; None for a file that edgekd did not write.
        lineage: the network, data and tools it came from.
    """

    path: Path
    format: str
    scheme: str | None
    sha256: str
    size_bytes: int
    signature: Signature | None = None
    lineage: Mapping[str, Any] = field(default_factory=dict)
    zipped_bytes: int | None = None

    @property
    def channels_last(self) -> tuple[str, ...]:
        """The inputs that it takes as NHWC where its network takes them as NCHW."""
        return tuple(self.lineage.get("channels_last", ()))

    @property
    def quantization(self) -> dict[str, QuantizationParams]:
        """The scale and zero point of each integer input and output that is float in its network,
        by name."""
        params = self.lineage.get("quantization", {})
        return {name: QuantizationParams(**values) for name, values in params.items()}

    def to_json(self) -> dict[str, Any]:
        """A JSON object; `path` is relative to the card's folder."""
        return {
            "path": self.path.name,
            "format": self.format,
            "scheme": self.scheme,
            "sha256": self.sha256,
            "size_bytes": self.size_bytes,
            "zipped_bytes": self.zipped_bytes,
            "signature": self.signature.to_json() if self.signature else None,
            "lineage": dict(self.lineage),
        }


def parts(path: Path) -> list[Path]:
    """The files or folders that belong to the artifact at `path`, itself first."""
    weights = [path.with_suffix(".bin")] if path.suffix in (".xml", ".param") else []
    if path.suffix == ".onnx":
        weights = [path.with_name(name) for name in _locations(path.read_bytes())]
    return [path, *(entry for entry in weights if entry.is_file() and entry != path)]


def _locations(content: bytes) -> list[str]:
    """The names of the files beside an ONNX file that hold values of its initializers.

    Source: onnx.proto, TensorProto.external_data, entries with the key "location".
    """
    names: dict[str, None] = {}
    for match in re.finditer(rb"\x0a\x08location\x12([\x01-\x7f])", content):
        name = content[match.end() : match.end() + match[1][0]].decode(errors="replace")
        if Path(name).name == name:
            names[name] = None
    return list(names)


def zipped(path: Path) -> int:
    """The size in bytes of the artifact at `path` after deflate, as app packages store it."""
    total = 0
    for part in parts(path):
        for entry in [part] if part.is_file() else sorted(part.rglob("*")):
            if entry.is_file():
                total += len(zlib.compress(entry.read_bytes()))
    return total


def describe(
    path: Path,
    format: str,
    scheme: str | None,
    signature: Signature | None = None,
    lineage: Mapping[str, Any] | None = None,
    zipped_bytes: int | None = None,
) -> Artifact:
    """The `Artifact` of the file or folder at `path`, its digest and size read from disk."""
    files = parts(path)
    digests = [path_digest(entry) for entry in files]
    return Artifact(
        path=path,
        format=format,
        scheme=scheme,
        sha256=digests[0] if len(digests) == 1 else digest(digests),
        size_bytes=sum(path_bytes(entry) for entry in files),
        zipped_bytes=zipped_bytes,
        signature=signature,
        lineage=lineage or {},
    )


def save_card(artifact: Artifact) -> None:
    """Writes `artifact.json` beside the artifact."""
    write_json(artifact.path.parent / CARD, artifact.to_json())


def load_artifact(path: Path | str) -> Artifact:
    """The artifact at `path`: its file, or the folder that holds it and its `artifact.json`.

    A file without a card gets its format from its suffix.

    Raises:
        RecipeError: there is no such file, the card is broken, the suffix is unknown, the file's
            digest is not the card's, or an ONNX file has weights outside its folder.
    """
    path = Path(path)
    if not path.exists():
        raise RecipeError(_fault(path, "it does not exist", "check the path"))
    for file in [path] if path.suffix == ".onnx" else sorted(path.glob("*.onnx")):
        if file.is_file():
            check_external_data(file)
    card_path = (path if path.is_dir() and path.suffix not in SUFFIXES else path.parent) / CARD
    card = read_card(card_path) if card_path.exists() else None
    if card and ((path.is_dir() and path.suffix not in SUFFIXES) or path.name == card["path"]):
        file = card_path.parent / card["path"]
        if not file.exists():
            raise RecipeError(
                _fault(file, "it does not exist", f"put it beside {card_path}, or export it again")
            )
        artifact = describe(
            file,
            card["format"],
            card["scheme"],
            card_signature(card),
            card["lineage"],
            card.get("zipped_bytes"),
        )
        if artifact.sha256 != card["sha256"]:
            raise RecipeError(
                Fault(
                    what=f"{artifact.path} is not the file its card describes.",
                    at=str(card_path),
                    got=f"sha256 {artifact.sha256}",
                    expected=f"sha256 {card['sha256']}",
                    fix="export it again, or delete artifact.json to take the file as it is",
                )
            )
        return artifact
    if path.suffix not in SUFFIXES:
        raise RecipeError(_fault(path, "an unknown kind of file", "name the model file itself"))
    return describe(path, SUFFIXES[path.suffix], None)


def _fault(path: Path, got: str, fix: str) -> Fault:
    return Fault(
        what=f"{path} is not an artifact.",
        at=str(path),
        got=got,
        expected=f"a {listed(SUFFIXES)}, or a folder with an {CARD}",
        fix=fix,
    )
