"""Networks that no file could stand for are told, with the path of what is wrong in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import edgekd
from edgekd.conversion.exportability import check_sound
from edgekd.errors import ConversionError, RecipeError
from edgekd.formats import FORMATS
from tests.support.models import TRAPS
from tests.support.project import assert_five_parts
from tests.support.skips import need_modules

ONES = torch.ones(1, 4)


class Inner(nn.Module):
    """A layer that does one wrong thing, two levels deep."""

    def __init__(self, wrong: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.wrong = wrong
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.wrong(self, x)


def network(wrong: Callable[[nn.Module, Tensor], Tensor]) -> edgekd.Network:
    inner = nn.Sequential(nn.Linear(4, 4), Inner(wrong))
    return edgekd.load_network(nn.Sequential(inner, nn.Linear(4, 2)), example=torch.ones(1, 4))


def counted(layer: nn.Module, x: Tensor) -> Tensor:
    layer.count += 1
    return x


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (counted, "0.1.count"),
        (lambda _, x: F.dropout(x), "module 0.1"),
        (lambda _, x: x + torch.rand(1), "output is not deterministic"),
    ],
)
def test_what_a_call_leaves_behind_is_told_with_its_module(
    wrong: Callable[[nn.Module, Tensor], Tensor], told: str
) -> None:
    torch.manual_seed(0)  # Two draws of a few numbers may be the same by chance.
    with pytest.raises(RecipeError, match=told) as caught:
        check_sound(network(wrong))
    assert_five_parts(str(caught.value))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_network_that_writes_to_its_input_is_told_whatever_it_writes(value: float) -> None:
    inner = nn.Sequential(nn.Identity(), Inner(lambda _, x: x.mul_(2)))
    example = {"input": torch.full((1, 4), value)}
    with pytest.raises(RecipeError, match="changes its own input") as caught:
        check_sound(edgekd.load_network(nn.Sequential(inner, nn.Linear(4, 2)), example=example))
    assert "module 0.1, input input" in str(caught.value)
    assert_five_parts(str(caught.value))


def test_what_is_written_in_place_to_a_copy_is_sound() -> None:
    def written(_: nn.Module, x: Tensor) -> Tensor:
        copied = torch.zeros_like(x)
        copied[:, ::2] = x[:, ::2]
        return copied.add_(1)

    check_sound(network(written))


def test_weights_that_no_runtime_takes_are_all_told(tmp_path: Path) -> None:
    bad = network(lambda _, x: x)
    with torch.no_grad():
        bad.module[0][0].weight[1, 2] = float("nan")
        bad.module[1].bias[0] = float("inf")
    with pytest.raises(RecipeError) as caught:
        edgekd.export(bad, format="onnx", out=tmp_path)
    assert "0.0.weight" in str(caught.value)
    assert "1.bias" in str(caught.value)
    assert "1 of 16 values are NaN or infinite" in str(caught.value)
    double = edgekd.load_network(nn.Linear(4, 2).double(), example=torch.ones(1, 4).double())
    with pytest.raises(RecipeError, match="float64") as caught:
        check_sound(double)
    assert "module.float()" in str(caught.value)
    assert "input input" in str(caught.value)
    assert_five_parts(str(caught.value))


@pytest.mark.parametrize(
    ("wrong", "at"),
    [
        (lambda _, x: x[:, :3], "module 1"),
        (lambda _, x: x.double(), "module 1"),
        (lambda _, x: x + torch.ones(4, device="meta"), "module 0.1, "),
        (lambda _, x: x @ x, "module 0.1, "),
    ],
)
def test_an_example_that_does_not_fit_is_told_with_its_module_and_line(
    wrong: Callable[[nn.Module, Tensor], Tensor], at: str
) -> None:
    with pytest.raises(RecipeError, match="does not accept its example") as caught:
        network(wrong)
    assert f"network, {at}" in str(caught.value)
    assert ("test_exportability.py:" in str(caught.value)) == at.endswith(", ")
    assert_five_parts(str(caught.value))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda _, x: x if x.sum() > 0 else -x,
        lambda _, x: x * int(x.abs().sum() > 1),
        lambda _, x: x * len([value for value in x.flatten().tolist() if value > 0]),
    ],
)
def test_control_flow_by_data_is_told_with_its_module_and_line(
    wrong: Callable[[nn.Module, Tensor], Tensor], tmp_path: Path
) -> None:
    need_modules(*FORMATS["onnx"].PACKAGES)
    with pytest.raises(ConversionError, match="has data-dependent control flow") as caught:
        edgekd.export(network(wrong), format="onnx", out=tmp_path)
    assert "network, module 0.1, " in str(caught.value)
    assert "test_exportability.py:" in str(caught.value)
    assert_five_parts(str(caught.value))


def test_where_tracing_fails_the_module_and_the_line_are_told(tmp_path: Path) -> None:
    need_modules(*FORMATS["onnx"].PACKAGES)
    leaves = network(lambda _, x: torch.from_numpy(x.numpy() * 2))
    with pytest.raises(ConversionError, match="converter to onnx failed") as caught:
        edgekd.export(leaves, format="onnx", out=tmp_path)
    assert "module 0.1, " in str(caught.value)
    assert "test_exportability.py:" in str(caught.value)
    assert_five_parts(str(caught.value))


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float64, torch.bfloat16, torch.float16])
def test_data_types_that_no_runtime_has_are_told_where_they_are(dtype: torch.dtype) -> None:
    out = edgekd.load_network(nn.Sequential(Inner(lambda _, x: x.to(dtype))), example=ONES)
    with pytest.raises(RecipeError, match="An output of the network has a data type") as caught:
        check_sound(out)
    assert "output output" in str(caught.value)
    taken = edgekd.load_network(
        nn.Sequential(Inner(lambda _, x: x.abs().float())), example=torch.ones(1, 4, dtype=dtype)
    )
    with pytest.raises(RecipeError, match="An input of the network has a data type") as caught:
        check_sound(taken)
    assert_five_parts(str(caught.value))


def test_weights_of_another_data_type_than_the_example_are_told() -> None:
    with pytest.raises(RecipeError, match=r"float16: convert them first, module\.float\(\)"):
        edgekd.load_network(nn.Sequential(nn.Linear(4, 4).half()), example=ONES)


def test_tensors_without_values_are_told() -> None:
    inner = network(lambda _, x: x).module
    inner[0][0].to("meta")
    with pytest.raises(RecipeError, match="has no values") as caught:
        edgekd.load_network(inner, example=ONES)
    assert "network, 0.0.weight" in str(caught.value)
    assert "1 more" in str(caught.value)
    with pytest.raises(RecipeError, match="example, input input"):
        edgekd.load_network(nn.Linear(4, 2), example=ONES.to("meta"))


@pytest.mark.parametrize("result", [None, {}, {"loss": None}, (3, "a")])
def test_a_network_that_returns_no_tensor_is_told(result: object) -> None:
    with pytest.raises(RecipeError, match="returns no tensor") as caught:
        edgekd.load_network(nn.Sequential(Inner(lambda *_: result)), example=ONES)  # type: ignore[arg-type,return-value]
    assert_five_parts(str(caught.value))


def test_a_network_in_train_mode_is_written_as_in_eval_mode_and_stays_in_train_mode(
    tmp_path: Path,
) -> None:
    need_modules(*FORMATS["onnx"].PACKAGES)
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).train()
    files = []
    for mode in (True, False):
        module.train(mode)
        made = edgekd.load_network(module, example=ONES)
        files.append(edgekd.export(made, format="onnx", out=tmp_path / str(mode)))
        assert module.training is mode
    assert files[0].sha256 == files[1].sha256


def test_a_part_that_puts_itself_in_train_mode_is_told() -> None:
    def train(layer: nn.Module, x: Tensor) -> Tensor:
        return layer.norm.train()(x)

    part = Inner(train)
    part.norm = nn.BatchNorm1d(4)
    for samples, told in ((1, "network, module 0.norm, "), (2, "network, 0.norm.running_mean")):
        with pytest.raises(RecipeError) as caught:
            check_sound(edgekd.load_network(nn.Sequential(part), example=torch.randn(samples, 4)))
        assert told in str(caught.value)


def test_sound_networks_pass() -> None:
    for trap in TRAPS.values():
        example = trap.draw(1, torch.Generator().manual_seed(0))
        check_sound(edgekd.load_network(trap.build(), example=example))


@pytest.mark.parametrize(
    ("wrong", "name", "kind"),
    [
        (lambda x: (x, (x + 1, x + 2)), "output_1", "a tuple"),
        (lambda x: {"logits": x, "states": [x, x]}, "states", "a list"),
    ],
)
def test_tensors_inside_an_output_are_told_and_not_dropped(
    wrong: Callable[[Tensor], object], name: str, kind: str
) -> None:
    class Nested(nn.Module):
        def forward(self, x: Tensor) -> object:
            return wrong(x)

    nested = edgekd.load_network(Nested(), example=ONES)
    with pytest.raises(RecipeError) as caught:
        check_sound(nested)
    assert_five_parts(str(caught.value))
    (fault,) = caught.value.faults
    assert (fault.at, fault.got) == (f"network, output {name}", kind)


def test_tuples_dicts_and_what_is_no_tensor_are_outputs_as_before() -> None:
    for answer in (lambda x: (x, x + 1), lambda x: {"logits": x, "loss": None}, lambda x: x):

        class Flat(nn.Module):
            forward_of = staticmethod(answer)

            def forward(self, x: Tensor) -> object:
                return self.forward_of(x)

        check_sound(edgekd.load_network(Flat(), example=ONES))
