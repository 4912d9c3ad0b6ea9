"""What a LiteRT file says of itself in TFLite's own metadata, as MediaPipe and Android Studio read
it: names, version, licence, normalisation, and the labels as a file behind the model.

Source: https://ai.google.dev/edge/litert/conversion/tensorflow/metadata and metadata_schema.fbs of
tflite-support 0.4.4, whose slots are the numbers below.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekd.recipe.bundle import Preprocessing
from edgekd.system.packages import need

NAME = "TFLITE_METADATA"
LABELS = "labels.txt"
IDENTIFIER = b"M001"
PARSER = "1.0.0"
"""The oldest parser that reads all fields below."""

FEATURE, IMAGE = 1, 2
"""Of the union ContentProperties."""
NORMALIZATION = 1
"""Of the union ProcessUnitOptions."""
AXIS_LABELS = 2
"""Of the enumeration AssociatedFileType."""
COLORS = {"rgb": 1, "gray": 2}
"""Of the enumeration ColorSpaceType."""


def metadata(
    told: Mapping[str, str],
    inputs: Sequence[str],
    outputs: Sequence[str],
    preprocessing: Mapping[str, Preprocessing],
) -> bytes:
    """The metadata as a flatbuffer.

    Args:
        told: name, version, description, licence and labels, those there are.
        inputs, outputs: their names, in the order of the file's tensors.
        preprocessing: by input, what an app does before the model.
    """
    builder = need("flatbuffers", extra="litert").Builder(1024)
    files = _file(builder) if "labels" in told else None
    tensors = [
        _vector(builder, [_input(builder, name, preprocessing.get(name)) for name in inputs]),
        _vector(
            builder,
            [
                _output(builder, name, files if number == 0 else None)
                for number, name in enumerate(outputs)
            ],
        ),
    ]
    graph = _table(builder, {2: tensors[0], 3: tensors[1]})
    texts = {0: "name", 1: "description", 2: "version", 5: "license"}
    named = {**told, "license": told.get("licence", "")}
    slots = {
        slot: builder.CreateString(named[key]) for slot, key in texts.items() if named.get(key)
    }
    slots |= {3: _vector(builder, [graph]), 7: builder.CreateString(PARSER)}
    builder.Finish(_table(builder, slots), IDENTIFIER)
    return bytes(builder.Output())


def append_labels(path: Path, labels: str) -> None:
    """Puts the labels, one on a line, behind the model at `path`, as a zip archive."""
    with zipfile.ZipFile(path, "a") as archive:
        # No time of packing: the same labels give the same bytes.
        archive.writestr(zipfile.ZipInfo(LABELS, (1980, 1, 1, 0, 0, 0)), f"{labels}\n")


def _file(builder: Any) -> int:
    """The vector of the one file that holds the labels of a tensor's last axis."""
    name = builder.CreateString(LABELS)
    return _vector(builder, [_table(builder, {0: name}, small={2: AXIS_LABELS})])


def _input(builder: Any, name: str, steps: Preprocessing | None) -> int:
    slots = {0: builder.CreateString(name)}
    image = steps is not None and (steps.color or steps.resize)
    if steps is not None and image:
        color = COLORS.get(steps.color or "", 0)
        slots[3] = _content(builder, IMAGE, _table(builder, {}, small={0: color}))
    if steps is not None and steps.model_fields_set & {"scale", "mean", "std"}:
        # TFLite's value is (pixel - mean) / std; ours (pixel * scale - mean) / std.
        numpy = need("numpy", extra="litert")
        mean, std = (
            builder.CreateNumpyVector((numpy.array(each) / steps.scale).astype("float32"))
            for each in (steps.mean, steps.std)
        )
        options = _table(builder, {0: mean, 1: std})
        slots[4] = _vector(builder, [_table(builder, {1: options}, small={0: NORMALIZATION})])
    return _table(builder, slots)


def _output(builder: Any, name: str, files: int | None) -> int:
    slots = {
        0: builder.CreateString(name),
        3: _content(builder, FEATURE, _table(builder, {})),
    }
    if files is not None:
        slots[6] = files
    return _table(builder, slots)


def _content(builder: Any, kind: int, properties: int) -> int:
    return _table(builder, {1: properties}, small={0: kind})


def _table(builder: Any, offsets: Mapping[int, int], small: Mapping[int, int] | None = None) -> int:
    """A table of what lies elsewhere in the buffer, and of enumerations, which are a byte."""
    small = small or {}
    builder.StartObject(max([*offsets, *small], default=-1) + 1)
    for slot, offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    for slot, value in small.items():
        builder.PrependUint8Slot(slot, value, 0)
    made: int = builder.EndObject()
    return made


def _vector(builder: Any, offsets: Sequence[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    made: int = builder.EndVector()
    return made
