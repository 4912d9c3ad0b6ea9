"""Metadata inside a Core ML package.

Source: https://apple.github.io/coremltools/mlmodel/Format/Model.html (Metadata)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgekd.formats.coreml.class_labels import name_classes
from edgekd.recipe.bundle import Preprocessing
from edgekd.system.packages import need


def embed(
    path: Path,
    metadata: Mapping[str, str],
    preprocessing: Mapping[str, Preprocessing],  # noqa: ARG001  `metadata` has it as JSON
) -> None:
    """Puts version, licence and description into the fields that Xcode shows, the rest into the
    user-defined ones.

    If the first output is probabilities, the labels become the program's own classes too.
    """
    proto = need("coremltools.proto.Model_pb2", extra="coreml")
    file = path / "Data" / "com.apple.CoreML" / "model.mlmodel"
    model = proto.Model.FromString(file.read_bytes())
    fields = model.description.metadata
    fields.versionString = metadata.get("version", "")
    fields.shortDescription = metadata.get("description", "")
    fields.license = metadata.get("licence", "")
    for key, value in metadata.items():
        fields.userDefined[f"edgekd.{key}"] = value
    if "labels" in metadata:
        if "," not in metadata["labels"]:
            fields.userDefined["classes"] = metadata["labels"].replace("\n", ",")
        if metadata.get("outputs") == "probabilities":
            name_classes(model, metadata["labels"].split("\n"))
    file.write_bytes(model.SerializeToString(deterministic=True))
