"""Metadata inside an ONNX file.

Source: https://github.com/onnx/onnx/blob/main/docs/MetadataProps.md
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgekd.recipe.bundle import Preprocessing
from edgekd.system.packages import need


def embed(
    path: Path,
    metadata: Mapping[str, str],
    preprocessing: Mapping[str, Preprocessing],  # noqa: ARG001  `metadata` has it as JSON
) -> None:
    """Puts `metadata` into `metadata_props`."""
    onnx = need("onnx", extra="onnx")
    model = onnx.load(path, load_external_data=False)
    kept = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, {**kept, **metadata})
    path.write_bytes(model.SerializeToString(deterministic=True))
