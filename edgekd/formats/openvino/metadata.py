"""Metadata inside an OpenVINO IR, where Open Model API looks for labels.

Source: https://docs.openvino.ai/2025/api/ie_python_api (Model.get_rt_info)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

from edgekd.recipe.bundle import Preprocessing


def embed(
    path: Path,
    metadata: Mapping[str, str],
    preprocessing: Mapping[str, Preprocessing],  # noqa: ARG001  `metadata` has it as JSON
) -> None:
    """Puts `metadata` into the section `model_info` of `rt_info`."""
    tree = ElementTree.parse(path)
    info = tree.getroot().find("rt_info")
    if info is None:
        info = ElementTree.SubElement(tree.getroot(), "rt_info")
    section = info.find("model_info")
    if section is None:
        section = ElementTree.SubElement(info, "model_info")
    for key, value in metadata.items():
        entry = section.find(key)
        if entry is None:
            entry = ElementTree.SubElement(section, key)
        entry.set("value", value)
    tree.write(path, encoding="utf-8", xml_declaration=True)
