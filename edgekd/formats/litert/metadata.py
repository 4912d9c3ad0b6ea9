"""Metadata inside a LiteRT file: TFLite's own, as MediaPipe and Android Studio read it.

It has names, version, licence and normalisation, and the labels as a file behind the model.

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
"""Values of the union ContentProperties."""
NORMALIZATION = 1
"""Values of the union ProcessUnitOptions."""
AXIS_LABELS = 2
"""Values of the enumeration AssociatedFileType."""
COLORS = {"rgb": 1, "gray": 2}
"""Values of the enumeration ColorSpaceType."""


def embed(
    path: Path, metadata: Mapping[str, str], preprocessing: Mapping[str, Preprocessing]
) -> None:
    """Puts `metadata` into TFLite's metadata, its labels behind the model, and keys that it has no
    field for into buffers named `edgekd.KEY`.

    Source: https://github.com/google-ai-edge/LiteRT tflite/converter/schema/schema.fbs (Metadata)
    """
    schema = need("ai_edge_litert.schema_py_generated", extra="litert")
    files = need("ai_edge_litert.tools.flatbuffer_utils", extra="litert")
    model = files.read_model(str(path))
    graph, signature = model.subgraphs[0], model.signatureDefs[0]
    names = {
        entry.tensorIndex: entry.name.decode() for entry in (*signature.inputs, *signature.outputs)
    }
    table = tflite_metadata(
        metadata,
        [names[index] for index in graph.inputs],
        [names[index] for index in graph.outputs],
        preprocessing,
    )
    others = {f"edgekd.{key}": metadata[key].encode() for key in ("target", "scheme", "outputs")}
    model.metadata = list(model.metadata or [])
    for key, value in {NAME: table, **others}.items():
        buffer, entry = schema.BufferT(), schema.MetadataT()
        buffer.data = list(value)
        entry.name, entry.buffer = key.encode(), len(model.buffers)
        model.buffers.append(buffer)
        model.metadata.append(entry)
    files.write_model(model, str(path))
    if "labels" in metadata:
        append_labels(path, metadata["labels"])


def tflite_metadata(
    texts: Mapping[str, str],
    inputs: Sequence[str],
    outputs: Sequence[str],
    preprocessing: Mapping[str, Preprocessing],
) -> bytes:
    """TFLite's metadata as a flatbuffer.

    Args:
        texts: name, version, description, licence and labels, those the recipe has.
        inputs, outputs: their names, in the order of the file's tensors.
        preprocessing: by input, what an app does before the model.
    """
    builder = need("flatbuffers", extra="litert").Builder(1024)
    files = _file(builder) if "labels" in texts else None
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
    fields = {0: "name", 1: "description", 2: "version", 5: "license"}
    named = {**texts, "license": texts.get("licence", "")}
    slots = {
        slot: builder.CreateString(named[key]) for slot, key in fields.items() if named.get(key)
    }
    slots |= {3: _vector(builder, [graph]), 7: builder.CreateString(PARSER)}
    builder.Finish(_table(builder, slots), IDENTIFIER)
    return bytes(builder.Output())


def append_labels(path: Path, labels: str) -> None:
    """Appends the labels, one on a line, to the model at `path` as a zip archive."""
    with zipfile.ZipFile(path, "a") as archive:
        # A fixed time stamp: the same labels give the same bytes.
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
            builder.CreateNumpyVector((numpy.array(values) / steps.scale).astype("float32"))
            for values in (steps.mean, steps.std)
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
    """A table of offsets into the buffer and of enumerations, which are a byte."""
    small = small or {}
    builder.StartObject(max([*offsets, *small], default=-1) + 1)
    for slot, start in offsets.items():
        builder.PrependUOffsetTRelativeSlot(slot, start, 0)
    for slot, value in small.items():
        builder.PrependUint8Slot(slot, value, 0)
    offset: int = builder.EndObject()
    return offset


def _vector(builder: Any, offsets: Sequence[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    vector: int = builder.EndVector()
    return vector
