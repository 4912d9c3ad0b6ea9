"""Files that an ONNX file names as the place of its weights, and whether they lie in its folder.

A foreign file can name any path. ONNX Runtime and onnx would read it, so it is refused before they
open the file. The fields are read here: the check must not depend on what is installed.

Source: onnx.proto, ModelProto to TensorProto.external_data; protobuf.dev, "Encoding".
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from edgekd.errors import Fault, RecipeError

_MESSAGES: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
"""The messages that may hold a tensor, by the numbers of their fields."""
DEPTH = 100
"""Protocol buffers refuse deeper nesting."""


def check_external_data(path: Path) -> None:
    """Refuse an ONNX file with weights outside its folder.

    Raises:
        RecipeError: a location is absolute, or leaves the folder by "..".
    """
    content = path.read_bytes()
    if b"location" not in content:
        return
    for location in _locations(memoryview(content), "model", 0):
        if _leaves(location):
            raise RecipeError(
                Fault(
                    what=f"{path.name} reads weights from outside its folder.",
                    at=str(path),
                    got=f"external data at {location!r}"[:300],
                    expected="the name of a file beside it",
                    fix="do not open it, or save it again with its weights beside it: "
                    "onnx.save(model, path, save_as_external_data=True)",
                )
            )


def _leaves(location: str) -> bool:
    return any(
        path.is_absolute() or bool(path.drive) or bool(path.root) or ".." in path.parts
        for path in (PurePosixPath(location), PureWindowsPath(location))
    )


def _locations(message: memoryview, kind: str, depth: int) -> Iterator[str]:
    """The locations in a message; a damaged one ends early, and no runtime opens it."""
    if depth > DEPTH:
        return
    if kind == "entry":
        fields = dict(_fields(message))
        if bytes(fields.get(1, b"")) == b"location":
            yield bytes(fields.get(2, b"")).decode(errors="replace")
        return
    for number, value in _fields(message):
        inner = _MESSAGES[kind].get(number)
        if inner is not None:
            yield from _locations(value, inner, depth + 1)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The fields of a message that have a length, each with its number."""
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            _, at = _varint(message, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        elif kind == 2:
            length, at = _varint(message, at)
            yield number, message[at : at + length]
            at += length
        elif kind > 5:
            return


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number of variable length, and the position behind it; past the end if it is damaged."""
    value = shift = 0
    while at < len(message) and shift < 70:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    return 0, len(message)
