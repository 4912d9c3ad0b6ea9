"""A foreign ONNX file that reads files outside its folder is refused before it is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgekd.artifacts.artifact import load_artifact
from edgekd.artifacts.external_data import check_external_data
from edgekd.distillation.black_box import load_black_box
from edgekd.errors import RecipeError
from tests.support.project import assert_five_parts
from tests.support.skips import need_modules

OUTSIDE = ["/etc/passwd", "../w.bin", "a/../../w.bin", "C:\\w.bin", "..\\w.bin", "\\\\host\\w"]
PLACES = ["initializer", "constant", "branch", "sparse"]


def external(location: str) -> Any:
    from onnx import TensorProto

    tensor = TensorProto(name="w", data_type=1, dims=[2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="offset", value="0")
    tensor.external_data.add(key="location", value=location)
    return tensor


def written(path: Path, location: str, where: str) -> Path:
    need_modules("onnx")
    from onnx import SparseTensorProto, helper

    tensor = external(location)
    x, y = (helper.make_tensor_value_info(name, 1, [2]) for name in "xy")
    nodes, weights, sparse = [helper.make_node("Add", ["x", "w"], ["y"])], [], []
    constant = helper.make_node("Constant", [], ["w"], value=tensor)
    if where == "initializer":
        weights = [tensor]
    elif where == "constant":
        nodes.insert(0, constant)
    elif where == "branch":
        branch = helper.make_graph([constant], "then", [], [])
        nodes.insert(0, helper.make_node("If", ["c"], ["w"], then_branch=branch))
    else:
        sparse = [SparseTensorProto(values=tensor, dims=[2])]
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    graph.sparse_initializer.extend(sparse)
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return path


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("location", OUTSIDE)
def test_weights_outside_the_folder_are_refused(tmp_path: Path, location: str, where: str) -> None:
    path = written(tmp_path / "m.onnx", location, where)
    for load in (load_artifact, lambda p: load_black_box(p.name, base=tmp_path)):
        with pytest.raises(RecipeError, match="reads weights from outside") as stop:
            load(path)
        assert_five_parts(str(stop.value))


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("location", ["w.bin", "weights/w.bin", "..w.bin", "a..b"])
def test_weights_in_the_folder_are_accepted(tmp_path: Path, location: str, where: str) -> None:
    check_external_data(written(tmp_path / "m.onnx", location, where))


@pytest.mark.parametrize(
    "data", [b"location", b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff location", b"\x3b" * 90]
)
def test_a_damaged_file_is_left_to_its_runtime(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(data)
    check_external_data(tmp_path / "m.onnx")
