"""Teachers that are files: run in their own runtime, or read from a table."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import edgekd
from edgekd.data import Data
from edgekd.distillation.black_box import BlackBox, OutputsTable, is_black_box, load_black_box
from edgekd.errors import RecipeError
from edgekd.network.network import Network, as_network
from edgekd.recipe.training import Distill
from edgekd.training.options import TrainingOptions


class Scored(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"logits": self.layers(image)}


def network(batch: int = 1) -> Network:
    return as_network(Scored().eval(), {"image": torch.zeros(batch, 1, 6, 6)})


def onnx_file(path: Path, batch: str | int) -> Path:
    module = network(2).module
    shapes = {"image": {0: torch.export.Dim("batch")}} if batch == "free" else None
    example = torch.zeros(2 if batch == "free" else batch, 1, 6, 6)  # type: ignore[arg-type]
    torch.onnx.export(
        module,
        kwargs={"image": example},
        f=path,
        dynamo=True,
        dynamic_shapes=shapes,
        output_names=["logits"],
        verbose=False,
    )
    return path


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ("a/teacher.onnx", True),
        ("teacher.tflite", True),
        ("ov/teacher.xml", True),
        ("outputs:teacher.safetensors", True),
        ("models.py:teacher", False),
        ("teacher.pt2", False),
        ("timm:resnet18", False),
    ],
)
def test_what_is_a_black_box(reference: str, told: bool) -> None:
    assert is_black_box(reference) is told


@pytest.mark.converter
@pytest.mark.parametrize("format", ["onnx", "openvino", "litert"])
def test_a_file_gives_what_its_network_gives(format: str, tmp_path: Path) -> None:
    artifact = edgekd.export(network(), format=format, scheme="fp32", out=tmp_path)
    teacher = load_black_box(artifact.path.name, base=artifact.path.parent)
    assert isinstance(teacher, BlackBox)
    assert teacher.batch_size == 1
    assert teacher.output_names == ("logits",)
    x = torch.randn(7, 1, 6, 6)
    # Under the student's own name for it, too.
    for name in ("image", "input"):
        found = teacher.outputs({name: x})
        assert torch.allclose(found, network()({"image": x})["logits"], atol=1e-4)


@pytest.mark.converter
@pytest.mark.parametrize(("batch", "size"), [("free", None), (4, 4)])
@pytest.mark.parametrize("count", [1, 5, 300])
def test_batches_are_filled_and_cut(
    batch: str | int, size: int | None, count: int, tmp_path: Path
) -> None:
    teacher = load_black_box(onnx_file(tmp_path / "teacher.onnx", batch).name, base=tmp_path)
    assert isinstance(teacher, BlackBox)
    assert teacher.batch_size == size
    x = torch.randn(count, 1, 6, 6)
    assert torch.allclose(teacher.outputs({"x": x}), network()({"image": x})["logits"], atol=1e-4)


@pytest.mark.converter
def test_a_teacher_of_other_inputs_is_reported_with_both(tmp_path: Path) -> None:
    teacher = load_black_box(onnx_file(tmp_path / "teacher.onnx", 1).name, base=tmp_path)
    assert isinstance(teacher, BlackBox)
    for wrong in (torch.zeros(2, 6, 6, 1), torch.zeros(2, 1, 6, 6, dtype=torch.int64)):
        with pytest.raises(RecipeError, match="inputs are not the student's") as caught:
            teacher.outputs({"x": wrong})
        assert "image 1x6x6 float32" in caught.value.faults[0].expected
    with pytest.raises(RecipeError, match="inputs are not the student's"):
        teacher.outputs({"x": torch.zeros(2, 1, 6, 6), "y": torch.zeros(2, 1)})


@pytest.mark.converter
def test_a_file_that_is_no_model_is_reported(tmp_path: Path) -> None:
    (tmp_path / "teacher.onnx").write_bytes(b"not a model")
    with pytest.raises(RecipeError, match="file cannot be loaded"):
        load_black_box("teacher.onnx", base=tmp_path)


def test_a_file_that_is_missing_is_reported_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "teacher.onnx").touch()
    with pytest.raises(RecipeError, match=r"did you mean 'teacher.onnx'"):
        load_black_box("teachr.onnx", base=tmp_path)


def images(count: int = 40) -> Data:
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 3, (count,), generator=generator)
    dataset = TensorDataset(torch.randn(count, 1, 6, 6, generator=generator), labels)
    return Data(dataset, dataset, dataset)


SOFT = Distill.model_validate(
    {
        "epochs": 2,
        "batch_size": 16,
        "losses": [{"method": "soft_target", "temperature": 2.0}],
        "cache_format": "fp32",
    }
)


def _student() -> Network:
    torch.manual_seed(4)
    return as_network(nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), torch.zeros(1, 1, 6, 6))


def test_a_table_teaches_as_its_teacher_does(tmp_path: Path) -> None:
    data = images()
    x = data.train.tensors[0]  # type: ignore[attr-defined]
    save_file({"train": network()({"image": x})["logits"].detach()}, tmp_path / "out.safetensors")
    table = load_black_box("outputs:out.safetensors", base=tmp_path)
    by_table = edgekd.distill(table, _student(), data, SOFT)
    by_teacher = edgekd.distill(network(), _student(), data, SOFT)
    assert torch.allclose(
        by_table.module.state_dict()["1.weight"],
        by_teacher.module.state_dict()["1.weight"],
        atol=1e-5,
    )


@pytest.mark.parametrize(
    ("tables", "told"),
    [
        ({"test": torch.zeros(40, 3)}, "not a table of outputs"),
        ({"train": torch.zeros(40)}, "not a table of outputs"),
        ({"train": torch.zeros(40, 3), "other": torch.zeros(1, 1)}, "not a table of outputs"),
        ({"train": torch.zeros(39, 3)}, "39 rows"),
        ({"train": torch.full((40, 3), float("nan"))}, "not finite"),
        ({"train": torch.zeros(40, 3), "test": torch.zeros(7, 3)}, "7 rows"),
    ],
)
def test_a_table_that_does_not_fit_is_reported(
    tables: dict[str, Tensor], told: str, tmp_path: Path
) -> None:
    save_file(tables, tmp_path / "out.safetensors")

    def check() -> None:
        table = load_black_box("outputs:out.safetensors", base=tmp_path)
        assert isinstance(table, OutputsTable)
        table.check(images())

    with pytest.raises(RecipeError, match=told):
        check()


def test_a_table_that_is_none_is_reported(tmp_path: Path) -> None:
    (tmp_path / "out.safetensors").write_bytes(b"garbage!")
    with pytest.raises(RecipeError, match="not a table of outputs"):
        load_black_box("outputs:out.safetensors", base=tmp_path)


def test_a_table_is_refused_for_augmented_views(tmp_path: Path) -> None:
    from dataclasses import replace

    save_file({"train": torch.zeros(40, 3)}, tmp_path / "out.safetensors")
    table = load_black_box("outputs:out.safetensors", base=tmp_path)
    data = replace(images(), augment=lambda inputs, seeds: inputs)  # noqa: ARG005
    with pytest.raises(RecipeError, match="has no outputs for augmented views"):
        edgekd.distill(table, _student(), data, SOFT)


@pytest.mark.converter
def test_only_outputs_of_a_file_can_be_compared(tmp_path: Path) -> None:
    teacher = load_black_box(onnx_file(tmp_path / "teacher.onnx", "free").name, base=tmp_path)
    hint = {"method": "hint", "student_layer": "1", "teacher_layer": "layers.0"}
    config = SOFT.model_copy(
        update={"losses": Distill.model_validate({"epochs": 1, "losses": [hint]}).losses}
    )
    with pytest.raises(
        RecipeError, match="Only the output of a teacher that is a file is known"
    ) as caught:
        edgekd.distill(teacher, _student(), images(), config)
    assert caught.value.faults[0].at == "distill.losses[0].teacher_layer"


@pytest.mark.converter
def test_a_file_teaches_as_its_network_does(tmp_path: Path) -> None:
    teacher = load_black_box(onnx_file(tmp_path / "teacher.onnx", "free").name, base=tmp_path)
    by_file = edgekd.distill(
        teacher, _student(), images(), SOFT, options=TrainingOptions(cache=tmp_path / "cache")
    )
    by_network = edgekd.distill(network(), _student(), images(), SOFT)
    assert torch.allclose(
        by_file.module.state_dict()["1.weight"],
        by_network.module.state_dict()["1.weight"],
        atol=1e-4,
    )
    assert list((tmp_path / "cache").rglob("*.npy"))
