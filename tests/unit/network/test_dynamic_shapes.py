"""Dynamic dimensions: their declaration, examples of other sizes, and the command line syntax."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgekd import load_network
from edgekd.artifacts.signature import DynamicDim
from edgekd.conversion.export import refuse_dynamic_shapes
from edgekd.conversion.preprocessing import embed_preprocessing
from edgekd.errors import RecipeError, RefusedError
from edgekd.network.dynamic_shapes import fits, other_sizes, parse_dynamic, resized
from edgekd.recipe.preprocessing import Raw
from tests.support.project import assert_five_parts

TOKENS = DynamicDim("tokens", 4, 32, {"ids": 1, "mask": 1})
EXAMPLE = {"ids": torch.arange(12).reshape(1, 12), "mask": torch.ones(1, 12, dtype=torch.int64)}


class Counted(nn.Module):
    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"all": (ids * mask).float(), "sum": (ids * mask).sum(1).float()}


def test_the_signature_has_the_dynamic_dimensions() -> None:
    network = load_network(Counted(), example=EXAMPLE, dynamic=(TOKENS,))
    assert [spec.shape for spec in network.signature.inputs] == [(1, None)] * 2
    assert [spec.shape for spec in network.signature.outputs] == [(1, None), (1,)]
    with pytest.raises(RefusedError) as raised:
        refuse_dynamic_shapes(network, "litert")
    assert_five_parts(str(raised.value))
    refuse_dynamic_shapes(network, "onnx")
    with pytest.raises(RecipeError, match="static shapes"):
        embed_preprocessing(network, {"ids": Raw(layout="same")})


def test_examples_come_to_other_sizes_together() -> None:
    for sizes in other_sizes(EXAMPLE, [TOKENS]):
        made = resized(EXAMPLE, sizes, [TOKENS])
        assert made["ids"].shape == made["mask"].shape == (1, sizes["tokens"])
    small, large = other_sizes(EXAMPLE, [TOKENS])
    assert (small["tokens"], large["tokens"]) == (4, 24)
    assert resized(EXAMPLE, {"tokens": 14}, [TOKENS])["ids"][0, 12:].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("least", "most", "now"), [(1, 2, 1), (1, 2, 2), (1, 8, 1), (4, 12, 12), (4, 12, 4), (3, 4, 4)]
)
def test_other_sizes_are_within_and_differ(least: int, most: int, now: int) -> None:
    free = DynamicDim("n", least, most, {"x": 0})
    small, large = other_sizes({"x": torch.zeros(now, 2)}, [free])
    found = {small["n"], large["n"]}
    assert all(least <= size <= most for size in found)
    assert found - {now}
    if most - least > 1:
        assert len(found | {now}) == 3


@pytest.mark.parametrize(
    "free",
    [
        DynamicDim("tokens", 4, 32, {"word": 1}),
        DynamicDim("tokens", 4, 32, {"ids": 2}),
        DynamicDim("tokens", 13, 32, {"ids": 1}),
        DynamicDim("tokens", 12, 12, {"ids": 1}),
        DynamicDim("tokens", 1, 32, {"ids": 1, "mask": 0}),
    ],
)
def test_what_is_no_size_of_the_inputs_is_reported(free: DynamicDim) -> None:
    with pytest.raises(RecipeError) as raised:
        load_network(Counted(), example=EXAMPLE, dynamic=(free,))
    assert_five_parts(str(raised.value))


def test_a_network_that_accepts_one_size_only_is_refused() -> None:
    linear = nn.Linear(12, 2)
    free = DynamicDim("width", 4, 32, {"x": 1})
    with pytest.raises(RecipeError, match="does not accept"):
        load_network(linear, example={"x": torch.zeros(1, 12)}, dynamic=(free,))


def test_words_of_the_command_line() -> None:
    assert parse_dynamic(["tokens=4..32@ids:1,mask:1"]) == (TOKENS,)
    for word in ("tokens", "tokens=4@ids:1", "tokens=4..8", "tokens=a..8@ids:1", "=1..2@x:0"):
        with pytest.raises(RecipeError) as raised:
            parse_dynamic([word])
        assert_five_parts(str(raised.value))


def test_shapes_fit_where_what_is_fixed_is_equal() -> None:
    spec = load_network(Counted(), example=EXAMPLE, dynamic=(TOKENS,)).signature.inputs[0]
    assert fits((1, 99), spec)
    assert not fits((2, 99), spec)
    assert fits((2, 99), spec, but_batch=True)
    assert not fits((1, 9, 9), spec)


@pytest.mark.parametrize("number", ["9" * 5000, "²", "1_0"])
def test_a_size_that_is_no_plain_number_is_refused(number: str) -> None:
    for text in (f"tokens=4..{number}@ids:1", f"tokens=4..8@ids:{number}"):
        with pytest.raises(RecipeError) as caught:
            parse_dynamic([text])
        assert_five_parts(str(caught.value))
