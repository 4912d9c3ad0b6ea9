"""Adds class labels to a Core ML program: the operator that names the likeliest class, where Vision
and Xcode look for it.

Source: https://apple.github.io/coremltools/docs-guides/source/classifiers.html; the operator is
the one that coremltools 9.0 adds for a ClassifierConfig (converters/mil/backend/mil/load.py).
Differs: the probabilities stay an output too, so the program's outputs do not change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgekd.system.packages import need

LABEL, PROBABILITIES = "classLabel", "classLabel_probs"


def name_classes(model: Any, labels: Sequence[str]) -> None:
    """Adds the name of the likeliest class, and the probabilities by name, to the program `model`.

    It adds nothing if the first output is not one probability for each of `labels`.
    """
    mil = need("coremltools.proto.MIL_pb2", extra="coreml")
    features = need("coremltools.proto.FeatureTypes_pb2", extra="coreml")
    description = model.description
    function = model.mlProgram.functions["main"]
    block = function.block_specializations[function.opset]
    first = description.output[0]
    shape = list(first.type.multiArrayType.shape)
    if shape != [1, len(labels)]:
        return
    given = first.name
    if first.type.multiArrayType.dataType != features.ArrayFeatureType.FLOAT32:
        given = _cast(mil, block, given, len(labels))
    operation = block.operations.add(type="classify")
    operation.inputs["probabilities"].arguments.add(name=given)
    classes = operation.inputs["classes"].arguments.add().value
    classes.type.listType.type.tensorType.dataType = mil.STRING
    classes.type.listType.length.constant.size = len(labels)
    for label in labels:
        classes.immediateValue.list.values.add().CopyFrom(_string(mil, label))
    operation.outputs.add(name=LABEL).type.tensorType.dataType = mil.STRING
    table = operation.outputs.add(name=PROBABILITIES).type.dictionaryType
    table.keyType.tensorType.dataType = mil.STRING
    table.valueType.tensorType.dataType = mil.FLOAT64
    operation.attributes["name"].CopyFrom(_string(mil, "classify_0"))
    block.outputs.extend([LABEL, PROBABILITIES])
    description.output.add(name=LABEL).type.stringType.SetInParent()
    description.output.add(name=PROBABILITIES).type.dictionaryType.stringKeyType.SetInParent()
    description.predictedFeatureName = LABEL
    description.predictedProbabilitiesName = PROBABILITIES


def _cast(mil: Any, block: Any, name: str, count: int) -> str:
    """The name of the tensor `name` cast to 32 bits, which the operator takes."""
    cast = f"{name}_for_classes"
    operation = block.operations.add(type="cast")
    operation.inputs["x"].arguments.add(name=name)
    operation.inputs["dtype"].arguments.add().value.CopyFrom(_string(mil, "fp32"))
    tensor = operation.outputs.add(name=cast).type.tensorType
    tensor.dataType, tensor.rank = mil.FLOAT32, 2
    for size in (1, count):
        tensor.dimensions.add().constant.size = size
    operation.attributes["name"].CopyFrom(_string(mil, cast))
    return cast


def _string(mil: Any, text: str) -> Any:
    value = mil.Value()
    value.type.tensorType.dataType = mil.STRING
    value.immediateValue.tensor.strings.values.append(text)
    return value
