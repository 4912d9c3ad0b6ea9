"""Names, labels and licence inside a saved file, in the place its format has for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

from edgekd.formats.coreml.class_labels import name_classes
from edgekd.formats.litert import metadata as _tflite_metadata
from edgekd.recipe.bundle import Preprocessing
from edgekd.system.packages import need


def onnx(path: Path, metadata: Mapping[str, str]) -> None:
    """Into `metadata_props`.

    Source: https://github.com/onnx/onnx/blob/main/docs/MetadataProps.md
    """
    library = need("onnx", extra="onnx")
    model = library.load(path, load_external_data=False)
    kept = {entry.key: entry.value for entry in model.metadata_props}
    library.helper.set_model_props(model, {**kept, **metadata})
    path.write_bytes(model.SerializeToString(deterministic=True))


def openvino(path: Path, metadata: Mapping[str, str]) -> None:
    """Into `rt_info`, section `model_info`, where Open Model API looks for labels.

    Source: https://docs.openvino.ai/2025/api/ie_python_api (Model.get_rt_info)
    """
    tree = ElementTree.parse(path)
    info = tree.getroot().find("rt_info")
    if info is None:
        info = ElementTree.SubElement(tree.getroot(), "rt_info")
    section = info.find("model_info")
    if section is None:
        section = ElementTree.SubElement(info, "model_info")
    for key, value in metadata.items():
        place = section.find(key)
        if place is None:
            place = ElementTree.SubElement(section, key)
        place.set("value", value)
    tree.write(path, encoding="utf-8", xml_declaration=True)


def litert(
    path: Path, metadata: Mapping[str, str], preprocessing: Mapping[str, Preprocessing]
) -> None:
    """Into TFLite's metadata, its labels behind the model; what that has no place for, into
    buffers of the names `edgekd.KEY`.

    Source: https://github.com/google-ai-edge/LiteRT tflite/converter/schema/schema.fbs (Metadata)
    """
    schema = need("ai_edge_litert.schema_py_generated", extra="litert")
    files = need("ai_edge_litert.tools.flatbuffer_utils", extra="litert")
    model = files.read_model(str(path))
    graph, signature = model.subgraphs[0], model.signatureDefs[0]
    names = {
        entry.tensorIndex: entry.name.decode() for entry in (*signature.inputs, *signature.outputs)
    }
    own = _tflite_metadata.metadata(
        metadata,
        [names[index] for index in graph.inputs],
        [names[index] for index in graph.outputs],
        preprocessing,
    )
    told = {f"edgekd.{key}": metadata[key].encode() for key in ("target", "scheme", "outputs")}
    model.metadata = list(model.metadata or [])
    for key, value in {_tflite_metadata.NAME: own, **told}.items():
        buffer, entry = schema.BufferT(), schema.MetadataT()
        buffer.data = list(value)
        entry.name, entry.buffer = key.encode(), len(model.buffers)
        model.buffers.append(buffer)
        model.metadata.append(entry)
    files.write_model(model, str(path))
    if "labels" in metadata:
        _tflite_metadata.append_labels(path, metadata["labels"])


def coreml(path: Path, metadata: Mapping[str, str]) -> None:
    """Into the description's metadata: version, licence and the user-defined rest, as Xcode shows.
    Of probabilities the labels are the program's own classes too.

    Source: https://apple.github.io/coremltools/mlmodel/Format/Model.html (Metadata)
    """
    proto = need("coremltools.proto.Model_pb2", extra="coreml")
    file = path / "Data" / "com.apple.CoreML" / "model.mlmodel"
    model = proto.Model.FromString(file.read_bytes())
    told = model.description.metadata
    told.versionString = metadata.get("version", "")
    told.shortDescription = metadata.get("description", "")
    told.license = metadata.get("licence", "")
    for key, value in metadata.items():
        told.userDefined[f"edgekd.{key}"] = value
    if "labels" in metadata:
        if "," not in metadata["labels"]:
            told.userDefined["classes"] = metadata["labels"].replace("\n", ",")
        if metadata.get("outputs") == "probabilities":
            name_classes(model, metadata["labels"].split("\n"))
    file.write_bytes(model.SerializeToString(deterministic=True))


PLACES = {"onnx": onnx, "openvino": openvino, "coreml": coreml}
