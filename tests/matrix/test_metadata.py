"""What files say of themselves, held against what the formats' own tools write and read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import edgekd
from edgekd.artifacts.quantization_params import QuantizationParams
from edgekd.formats.capabilities import embed, quantization
from edgekd.recipe.bundle import Preprocessing
from tests.support.skips import need_modules

pytestmark = pytest.mark.converter

LABELS = ["cat", "a, b", "Vögel"]
TOLD = {
    "name": "tiny", "version": "1.2.3", "licence": "MIT", "target": "phone", "scheme": "fp32",
    "outputs": "probabilities", "labels": "\n".join(LABELS),
}  # fmt: skip


def network() -> Any:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 3), nn.Softmax(-1)).eval()
    return edgekd.load_network(module, example={"input": torch.randn(1, 4)})


@pytest.mark.parametrize("scheme", ["fp32", "fp16"])
def test_core_ml_names_classes_as_coremltools_does(tmp_path: Path, scheme: str) -> None:
    need_modules("coremltools")
    import coremltools as ct

    made = edgekd.export(network(), format="coreml", scheme=scheme, out=tmp_path)
    assert embed("coreml", made.path, TOLD, {})
    ours = ct.models.MLModel(str(made.path), skip_model_load=True).get_spec()
    program = torch.export.export(network().module, (torch.randn(1, 4),)).run_decompositions({})
    theirs = ct.convert(
        program,
        minimum_deployment_target=ct.target.iOS16,
        classifier_config=ct.ClassifierConfig(LABELS),
        skip_model_load=True,
    ).get_spec()

    def last(spec: Any) -> Any:
        block = next(iter(spec.mlProgram.functions["main"].block_specializations.values()))
        operation = block.operations[-1]
        operation.inputs["probabilities"].arguments[0].name = "x"
        return operation

    assert last(ours).SerializeToString(deterministic=True) == last(theirs).SerializeToString(
        deterministic=True
    )
    a, b = ours.description, theirs.description
    assert (a.predictedFeatureName, a.predictedProbabilitiesName) == (
        b.predictedFeatureName,
        b.predictedProbabilitiesName,
    )
    added = {each.name: each.type for each in a.output}
    assert len(added) == 3  # and what it gave before
    for each in b.output:
        assert added[each.name] == each.type


def test_core_ml_names_no_classes_of_logits_or_of_other_counts(tmp_path: Path) -> None:
    need_modules("coremltools")
    import coremltools as ct

    for number, changed in enumerate(({"outputs": "logits"}, {"labels": "a\nb"})):
        made = edgekd.export(network(), format="coreml", scheme="fp32", out=tmp_path / str(number))
        assert embed("coreml", made.path, {**TOLD, **changed}, {})
        spec = ct.models.MLModel(str(made.path), skip_model_load=True).get_spec()
        assert [each.name for each in spec.description.output] == network().signature.output_names


def _field(table: Any, slot: int) -> int:
    """Where in the buffer the field in `slot` lies; 0 where it is absent."""
    offset = table.Offset(4 + 2 * slot)
    return offset + table.Pos if offset else 0


def test_litert_says_how_its_input_is_normalised_and_where_its_labels_are(tmp_path: Path) -> None:
    """The slots are those of metadata_schema.fbs; tflite-support 0.4.4 read such a file by hand."""
    need_modules("ai_edge_litert", "flatbuffers")
    import struct

    from ai_edge_litert.tools import flatbuffer_utils
    from flatbuffers.table import Table

    made = edgekd.export(network(), format="litert", scheme="fp32", out=tmp_path)
    steps = Preprocessing(scale=1 / 255, mean=[0.5], std=[0.25], color="rgb")
    assert embed("litert", made.path, TOLD, {"input": steps})
    model = flatbuffer_utils.read_model(str(made.path))
    told = {e.name.decode(): bytes(model.buffers[e.buffer].data) for e in model.metadata}
    data = told["TFLITE_METADATA"]
    root = Table(data, struct.unpack_from("<I", data)[0])

    def text(table: Any, slot: int) -> str:
        return table.String(_field(table, slot)).decode()

    def table_at(table: Any, slot: int) -> Any:
        return Table(data, table.Indirect(_field(table, slot)))

    def first(table: Any, slot: int) -> Any:
        return Table(data, table.Indirect(table.Vector(_field(table, slot) - table.Pos)))

    assert [text(root, slot) for slot in (0, 2, 5)] == ["tiny", "1.2.3", "MIT"]
    graph = first(root, 3)
    given, gives = first(graph, 2), first(graph, 3)
    assert text(given, 0) == "input"
    unit = first(given, 4)
    assert data[_field(unit, 0)] == 1  # NormalizationOptions
    options = table_at(unit, 1)
    for slot, value in ((0, 127.5), (1, 63.75)):
        place = options.Vector(_field(options, slot) - options.Pos)
        assert struct.unpack_from("<f", data, place)[0] == pytest.approx(value)
    labels = first(gives, 6)
    assert text(labels, 0) == "labels.txt"
    assert data[_field(labels, 2)] == 2  # TENSOR_AXIS_LABELS


def test_quantized_inputs_and_outputs_are_read_from_the_file(tmp_path: Path) -> None:
    need_modules("ai_edge_litert", "ai_edge_quantizer")
    from ai_edge_quantizer import quantizer, recipe

    plain = edgekd.export(network(), format="litert", scheme="fp32", out=tmp_path)
    assert quantization("litert", plain.path) == {}
    made = quantizer.Quantizer(str(plain.path), recipe.static_wi8_ai8())
    samples = {"serving_default": [{"input": torch.randn(1, 4).numpy()} for _ in range(8)]}
    place = tmp_path / "whole.tflite"
    made.quantize(made.calibrate(samples)).export_model(str(place))
    found = quantization("litert", place)
    assert set(found) == {"input", "output"}
    # ai-edge-quantizer makes softmax's output what TFLite demands of it.
    assert found["output"] == QuantizationParams(1 / 256, -128, "int8")
