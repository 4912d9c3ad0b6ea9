"""Networks that no file could stand for are told, with the path of what is wrong in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import assert_five_parts
from models import TRAPS
from torch import Tensor, nn
from torch.nn import functional as F

import edgekd
from edgekd.errors import RecipeError
from edgekd.soundness import check_sound


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
        (lambda _, x: x + torch.rand(1), "answers differently from call to call"),
    ],
)
def test_what_a_call_leaves_behind_is_told_with_its_module(
    wrong: Callable[[nn.Module, Tensor], Tensor], told: str
) -> None:
    with pytest.raises(RecipeError, match=told) as caught:
        check_sound(network(wrong))
    assert_five_parts(str(caught.value))


def test_a_network_that_changes_its_input_is_told() -> None:
    class Changing(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image.mul_(2)

    with pytest.raises(RecipeError, match="changes its own input") as caught:
        check_sound(edgekd.load_network(Changing(), example={"image": torch.ones(1, 4)}))
    assert "input image" in str(caught.value)


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


def test_sound_networks_pass() -> None:
    for trap in TRAPS.values():
        example = trap.draw(1, torch.Generator().manual_seed(0))
        check_sound(edgekd.load_network(trap.build(), example=example))
