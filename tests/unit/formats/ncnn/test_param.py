"""ncnn's layer files: read, written, and refused where they are broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekd.formats.inspection import read_graph
from edgekd.formats.ncnn.param import read_param, write_param

TEXT = """7767517
4 5
Input                    in0                      0 1 image 0=8 1=8 2=3
Split                    split                    1 2 image 1 2
Convolution              conv                     1 1 1 3 0=4 1=3 -23303=2,1.0,2.0
BinaryOp                 add                      2 1 3 2 sum 0=0
"""


def test_what_is_written_is_what_was_read(tmp_path: Path) -> None:
    path, again = tmp_path / "model.param", tmp_path / "again.param"
    path.write_text(TEXT)
    layers = read_param(path)
    assert [layer.kind for layer in layers] == ["Input", "Split", "Convolution", "BinaryOp"]
    assert layers[2].values["-23303"] == "2,1.0,2.0"
    assert layers[3].takes == ("3", "2")
    write_param(again, layers)
    assert read_param(again) == layers
    assert again.read_text().splitlines()[1] == "4 5"


def test_operators_inputs_and_named_outputs_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "model.param"
    path.write_text(TEXT)
    graph = read_graph(path, "ncnn")
    assert graph.operators == {"BinaryOp": 1, "Convolution": 1}
    assert (graph.inputs, graph.outputs) == (1, 1)


@pytest.mark.parametrize(
    "text",
    ["", "no param\n1 1\n", "7767517\n1 1\nInput in0 0 one", "7767517\n1 1\nInput in0 0 3 a"],
)
def test_a_broken_file_is_told(text: str, tmp_path: Path) -> None:
    path = tmp_path / "model.param"
    path.write_text(text)
    with pytest.raises(ValueError, match="no ncnn file"):
        read_param(path)


def test_a_file_of_other_bytes_is_told(tmp_path: Path) -> None:
    path = tmp_path / "model.param"
    path.write_bytes(b"\xff\xfe\x00\x85\x76\x00")
    with pytest.raises(ValueError, match="no ncnn file"):
        read_param(path)
