"""The card of a model file, when somebody else wrote it."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.artifacts.artifact import CARD, load_artifact
from edgekd.errors import RecipeError
from edgekd.system.files import path_digest
from tests.support.hostile import EXAMPLES, texts
from tests.support.project import assert_five_parts

CONTENT = b"a model"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.tflite").write_bytes(CONTENT)
    write(tmp_path, card())
    return tmp_path


def card(**changed: Any) -> dict[str, Any]:
    tensor = {"name": "x", "shape": [1, None], "dtype": "float32", "layout": None, "meaning": None}
    return {
        "path": "model.tflite",
        "format": "litert",
        "scheme": "int8",
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
        "size_bytes": len(CONTENT),
        "zipped_bytes": None,
        "signature": {"inputs": [tensor], "outputs": [{**tensor, "name": "y"}]},
        "lineage": {
            "method": "x",
            "channels_last": ["x"],
            "quantization": {"x": {"scale": 0.5, "zero_point": 1, "dtype": "int8"}},
            "example_shapes": {"x": [1, 4]},
            "operators": {"Conv": 1},
            "transposes": 0,
            "quantized_weights_frac": 0.9,
            "weights_in_float": ["Conv"],
        },
        **changed,
    }


def write(folder: Path, document: Any) -> None:
    (folder / CARD).write_text(document if isinstance(document, str) else json.dumps(document))


def test_a_card_of_edgekd_is_read(folder: Path) -> None:
    artifact = load_artifact(folder)
    assert artifact.sha256 == path_digest(folder / "model.tflite")
    assert artifact.channels_last == ("x",)
    assert artifact.quantization["x"].scale == 0.5


HOSTILE: dict[str, dict[str, Any]] = {
    "path: the name of a file": {"path": "../secret"},
    "path: the name": {"path": "/etc/passwd"},
    "path: the name of": {"path": "a\0b"},
    "path: ": {"path": 3},
    "format: ": {"format": "\x1b[2J"},
    "scheme: one of": {"scheme": "int3"},
    "sha256: ": {"sha256": "x"},
    "signature: ": {"signature": 3},
    "signature.inputs.0": {"signature": {"inputs": [3], "outputs": []}},
    "lineage: ": {"lineage": []},
    "lineage.channels_last": {"lineage": {"channels_last": 3}},
    "lineage.quantization.x": {"lineage": {"quantization": {"x": 3}}},
    "a shape of at most": {"lineage": {"example_shapes": {"x": [2**20, 2**20]}}},
    "a shape of every input": {"lineage": {"example_shapes": {"z": [1]}}},
    "a list of operators": {"lineage": {"quantized_weights_frac": 0.1}},
}


@pytest.mark.parametrize("message", HOSTILE)
def test_a_value_of_another_type_is_reported_with_its_key(folder: Path, message: str) -> None:
    write(folder, card(**HOSTILE[message]))
    with pytest.raises(RecipeError) as caught:
        load_artifact(folder)
    assert_five_parts(str(caught.value))
    assert "is not an artifact's card" in str(caught.value)
    assert message in str(caught.value)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "3", "[]", "[" * 5000, '{"path": "a", "path": "b"}', '{"path": NaN}', '{"path": 1e999}'],
)
def test_a_card_that_is_not_json_is_refused(folder: Path, text: str) -> None:
    write(folder, text)
    with pytest.raises(RecipeError, match="is not an artifact's card"):
        load_artifact(folder)


def test_a_card_of_a_missing_file_is_reported(folder: Path) -> None:
    write(folder, card(path="other.onnx", format="onnx"))
    with pytest.raises(RecipeError, match="it does not exist"):
        load_artifact(folder)


def test_an_unknown_format_is_reported(folder: Path, edgekd_cli: Any) -> None:
    write(folder, card(format="future"))
    result = edgekd_cli("benchmark", folder)
    assert result.code == 2
    assert_five_parts(result.err)
    assert "There is no format 'future'" in result.err


def test_no_value_in_a_card_is_a_bug(folder: Path) -> None:
    paths = [(key,) for key in card()] + [("lineage", key) for key in card()["lineage"]]
    paths += [("signature", "inputs"), ("signature", "outputs")]
    paths += [("signature", "inputs", 0, key) for key in card()["signature"]["inputs"][0]]
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | texts(st.characters()),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts(), inner, max_size=3),
        max_leaves=6,
    )

    @settings(max_examples=8 * EXAMPLES, derandomize=True, database=None, deadline=None)
    @given(st.sampled_from(paths), values)
    def replace(path: tuple[Any, ...], value: Any) -> None:
        document = card()
        table: Any = document
        for key in path[:-1]:
            table = table[key]
        table[path[-1]] = value
        write(folder, document)
        with contextlib.suppress(RecipeError):
            artifact = load_artifact(folder)
            _ = artifact.quantization, artifact.channels_last

    replace()
