"""What the papers say of losses of features: invariances, numbers worked out by hand, minima."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from edgekd.losses import (
    LOSSES,
    RELATES_SAMPLES,
    attention_relation,
    attention_transfer,
    contrastive,
    hierarchical_context,
    relational_distance,
)

GENERATOR = torch.Generator()


@pytest.fixture(autouse=True)
def _same_numbers_in_any_order() -> Iterator[None]:
    """Each test draws the same numbers; tensors this small take longest on several threads."""
    GENERATOR.manual_seed(1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def normal(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64).to(dtype)


def gradient(function: Callable[[Tensor], Tensor], of: Tensor) -> Tensor:
    of = of.detach().requires_grad_()
    (found,) = torch.autograd.grad(function(of), of)
    return found


# ---- numbers worked out by hand --------------------------------------------------------------


@dataclass(frozen=True)
class Golden:
    """Features, and the loss in closed form."""

    name: str
    tensors: list[Any]
    expected: float
    options: dict[str, Any] = field(default_factory=dict)
    relative: float = 1e-12


HALF = math.sqrt(0.5)
ORTHOGONAL = [[1, 0], [0, 1]]
EQUAL = [[1, 0], [1, 0]]
GOLDEN = [
    Golden("hint", [[[1, 2]], [[3, 2]]], 2.0),
    Golden("mean_squared", [[[1, 2]], [[3, 2]]], 2.0),
    # 1/2 within delta, delta (3 - delta / 2) beyond.
    Golden("huber", [[[1, 3]], [[0, 0]]], (0.5 + 2.5) / 2),
    Golden("huber", [[[1, 3]], [[0, 0]]], (0.5 + 2 * (3 - 1)) / 2, {"delta": 2}),
    Golden("masked_generative", [[[1, 2], [0, 0]], [[3, 2], [0, 3]]], (4 + 9) / 2),
    Golden("cosine_embedding", [[[1, 0], [2, 0]], [[1, math.sqrt(3)], [-5, 0]]], (0.5 + 2) / 2),
    # One channel, two positions: maps (1, 0) and (0, 1).
    Golden("attention_transfer", [[[[5, 0]]], [[[0, -2]]]], 1.0),
    # |1| + |1| against |2| + 0: equal for p = 1; for p = 2 (1, 1) / sqrt 2 against (1, 0).
    Golden("attention_transfer", [[[[1, 1], [1, 1]]], [[[2, 1], [0, 1]]]], 0.0, {"power": 1}),
    Golden("attention_transfer", [[[[1, 1]]], [[[1, 0]]]], ((1 - HALF) ** 2 + 0.5) / 2),
    # On a line: 1, 3, 2 of mean 2 against 1, 2, 1 of mean 4/3.
    Golden("relational_distance", [[[0], [1], [3]], [[0], [1], [2]]], 4 * 0.25**2 / 2 / 9),
    # A right angle and two of 45 degrees against three of 60.
    Golden(
        "relational_angle",
        [[[0, 0], [1, 0], [0, 1]], [[0, 0], [1, 0], [0.5, math.sqrt(0.75)]]],
        (2 * 0.5**2 / 2 + 4 * (HALF - 0.5) ** 2 / 2) / 27,
    ),
    # The unit matrix against one of 1 / sqrt 2.
    Golden("similarity_preserving", [ORTHOGONAL, EQUAL], ((1 - HALF) ** 2 + 0.5) * 2 / 4),
    # (2/3, 1/3) against (1/2, 1/2), over two pairs of four; EPSILON shows at 1e-7.
    Golden("probabilistic_transfer", [ORTHOGONAL, EQUAL], math.log(9 / 8) / 4, relative=1e-5),
    # The map and its one position; of the larger ones none is smaller than the map.
    Golden("hierarchical_context", [[[[1, -1]]], [[[0, 0]]]], (1 + 0) / 1.5),
    Golden("hierarchical_context", [[[[1, 1]]], [[[0, 0]]]], (1 + 0.5) / 1.5),
    # Of four positions, two: (1, 0), then one: 1/2.
    Golden(
        "hierarchical_context", [[[[1, 1, 0, 0]]], [[[0] * 4]]], (1 / 2 + 1 / 4 + 1 / 16) / 1.75
    ),
    Golden(
        "contrastive", [ORTHOGONAL, ORTHOGONAL], math.log(1 + math.exp(-2)), {"temperature": 0.5}
    ),
    Golden("contrastive", [ORTHOGONAL, ORTHOGONAL], math.log1p(math.exp(-1 / 0.07)), relative=1e-9),
    # (1/2, 1/2) against (1/4, 3/4).
    Golden(
        "attention_relation",
        [[[[[0], [0]]]], [[[[0], [0]]]], [[[[1], [1]]]], [[[[0], [math.log(3)]]]]],
        math.log(1 / 2) / 4 + math.log(3 / 2) * 3 / 4,
    ),
    # Width 4: twice the product is divided by 2.
    Golden(
        "attention_relation",
        [
            [[[0] * 4] * 2],
            [[[0] * 4] * 2],
            [[[2, 0, 0, 0]] * 2],
            [[[0] * 4, [math.log(3), 0, 0, 0]]],
        ],
        math.log(1 / 2) / 4 + math.log(3 / 2) * 3 / 4,
        {"heads": 1},
    ),
]


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden.name)
def test_numbers_worked_out_by_hand(golden: Golden) -> None:
    tensors = [torch.tensor(each, dtype=torch.float64) for each in golden.tensors]
    found = float(LOSSES[golden.name](*tensors, **golden.options))
    assert found == pytest.approx(golden.expected, rel=golden.relative, abs=1e-15)


# ---- the invariances of the papers, and what is not invariant -------------------------------


SCALE = torch.linspace(0.5, 1.5, 8, dtype=torch.float64)[:, None]
TURN = torch.linalg.qr(torch.linspace(-1, 1, 25, dtype=torch.float64).reshape(5, 5) + torch.eye(5))[
    0
]
MAPS = ("attention_transfer",)


def change(name: str, map_: Callable[[Tensor], Tensor]) -> float:
    """The relative change of the loss when the student's features go through `map_`."""
    shape = (8, 3, 6, 6) if name in MAPS else (8, 5)
    s, t = normal(*shape), normal(*shape)
    return abs(float(LOSSES[name](map_(s), t) / LOSSES[name](s, t)) - 1.0)


@pytest.mark.parametrize(
    ("name", "map_"),
    [
        ("attention_transfer", lambda f: SCALE[:, :, None, None] * f),
        ("attention_transfer", lambda f: f[:, [2, 0, 1]]),
        ("attention_transfer", lambda f: -f),
        ("relational_distance", lambda f: 3.0 * f @ TURN + 7.0),
        ("relational_angle", lambda f: 3.0 * f @ TURN + 7.0),
        ("similarity_preserving", lambda f: 3.0 * f @ TURN),
        ("probabilistic_transfer", lambda f: SCALE * (f @ TURN)),
        ("contrastive", lambda f: SCALE * f),
        ("cosine_embedding", lambda f: SCALE * f),
    ],
)
def test_what_a_loss_of_features_does_not_see(name: str, map_: Callable[[Tensor], Tensor]) -> None:
    assert change(name, map_) < 1e-12


@pytest.mark.parametrize(
    ("name", "map_"),
    [
        ("attention_transfer", lambda f: f + 7.0),
        ("attention_transfer", lambda f: f.flip(3)),
        ("relational_distance", lambda f: SCALE * f),
        ("relational_angle", lambda f: SCALE * f),
        ("similarity_preserving", lambda f: f + 7.0),
        ("similarity_preserving", lambda f: f[:, :1] * f),
        ("probabilistic_transfer", lambda f: f + 7.0),
        ("contrastive", lambda f: f @ TURN),
        ("cosine_embedding", lambda f: f @ TURN),
        ("hint", lambda f: f @ TURN),
        ("masked_generative", lambda f: 2.0 * f),
    ],
)
def test_what_a_loss_of_features_does_see(name: str, map_: Callable[[Tensor], Tensor]) -> None:
    assert change(name, map_) > 1e-3


@pytest.mark.parametrize("name", sorted(RELATES_SAMPLES))
def test_the_order_of_the_batch_does_not_matter_if_it_is_that_of_both(name: str) -> None:
    s, t = normal(8, 5), normal(8, 5)
    order = torch.randperm(8, generator=GENERATOR)
    expected = float(LOSSES[name](s, t))
    assert float(LOSSES[name](s[order], t[order])) == pytest.approx(expected, rel=1e-12)
    assert float(LOSSES[name](s[order], t)) != pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", sorted(RELATES_SAMPLES - {"dist", "contrastive"}))
def test_features_may_be_maps_and_as_wide_as_they_like(name: str) -> None:
    s, t = normal(8, 2, 3, 3), normal(8, 7)
    assert float(LOSSES[name](s, t)) == float(LOSSES[name](s.flatten(1), t))


# ---- where peers lose digits ----------------------------------------------------------------


@pytest.mark.parametrize("offset", [100.0, 1e3, 1e4])
@pytest.mark.parametrize("name", ["relational_distance", "relational_angle"])
def test_relations_keep_their_digits_where_features_have_an_offset(
    name: str, offset: float
) -> None:
    """Peers lose half the value at an offset of 1,000, and all of it at 10,000."""
    s, t = normal(16, 32), normal(16, 32)
    exact = float(LOSSES[name](s, t))
    # What float32 can hold of features with this offset is all that the loss may lose.
    s, t = (s + offset).float(), (t + offset).float()
    held = float(LOSSES[name](s.double(), t.double()))
    found = float(LOSSES[name](s, t))
    assert found == pytest.approx(held, rel=1e-5)
    assert found == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize("name", ["relational_distance", "relational_angle"])
@pytest.mark.parametrize("noise", [0.0, 1e-7], ids=["equal", "equal but for rounding"])
@pytest.mark.parametrize("count", [2, 8], ids=["two samples", "all samples"])
def test_duplicates_give_a_gradient_no_larger_than_others(
    name: str, noise: float, count: int
) -> None:
    """Peers divide by their distance: a gradient of 4e6."""
    usual, teacher = normal(8, 32, dtype=torch.float32), normal(8, 32, dtype=torch.float32)
    doubled = usual.clone()
    doubled[:count] = doubled[0] * (1.0 + noise * normal(count, 32, dtype=torch.float32))
    size = gradient(lambda f: LOSSES[name](f, teacher), usual).abs().max()
    found = gradient(lambda f: LOSSES[name](f, teacher), doubled)
    assert torch.isfinite(found).all()
    assert float(found.abs().max()) < 3 * float(size)


def test_samples_that_differ_by_little_still_have_a_distance() -> None:
    """Only rounding is taken for zero: differences of 1e-3 are the whole of these features."""
    shape, t = normal(8, 32), normal(8, 32)
    s = (1.0 + 1e-3 * shape).float()
    exact = float(relational_distance(s.double(), t))
    assert float(relational_distance(s, t.float())) == pytest.approx(exact, rel=1e-4)
    assert exact == pytest.approx(float(relational_distance(shape, t)), rel=1e-3)


# ---- the minimum of the contrastive loss ----------------------------------------------------


def simplex(count: int) -> Tensor:
    """As many directions, any two as far apart as all can be."""
    corners = torch.eye(count, dtype=torch.float64)
    return corners - corners.mean(0)


def test_equal_features_are_the_least_of_all_pairings_with_samples() -> None:
    f = normal(4, 5)
    paired = {
        order: float(contrastive(f[list(order)], f, temperature=0.5))
        for order in itertools.permutations(range(4))
    }
    assert min(paired, key=paired.__getitem__) == (0, 1, 2, 3)


def test_equal_features_are_not_the_least_of_all_students() -> None:
    f = normal(8, 5)
    equal = contrastive(f, f, temperature=0.5)
    step = gradient(lambda student: contrastive(student, f, temperature=0.5), f)
    assert float(contrastive(f - 0.1 * step, f, temperature=0.5)) < float(equal)


@pytest.mark.parametrize("count", [2, 3, 8])
def test_a_simplex_is_the_least_of_all_students_and_teachers(count: int) -> None:
    corners = simplex(count)
    least = float(contrastive(corners, corners, temperature=0.5))
    expected = math.log(1 + (count - 1) * math.exp(-count / (count - 1) / 0.5))
    assert least == pytest.approx(expected, rel=1e-12)
    for width in (2, count):
        assert (
            float(contrastive(normal(count, width), normal(count, width), temperature=0.5)) > least
        )
    # There is nowhere to go from it.
    slope = gradient(lambda student: contrastive(student, corners, temperature=0.5), corners)
    assert float(slope.abs().max()) < 1e-12


# ---- maps and heads of other sizes -----------------------------------------------------------


@pytest.mark.parametrize("sizes", [((8,), (4,)), ((8, 8), (4, 4)), ((4, 4, 4), (2, 2, 2))])
def test_attention_maps_of_different_sizes_are_pooled_to_the_smaller(
    sizes: tuple[tuple[int, ...], tuple[int, ...]],
) -> None:
    large, small = normal(4, 3, *sizes[0]), normal(4, 7, *sizes[1])
    halved = large.square().mean(1)
    for axis in range(1, halved.ndim):
        halved = (halved.unfold(axis, 2, 2)).mean(-1)
    # A map of one channel has the attention of its own square: its root stands for it.
    expected = float(attention_transfer(halved.sqrt()[:, None], small))
    assert float(attention_transfer(large, small)) == pytest.approx(expected, rel=1e-12)
    assert float(attention_transfer(small, large)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("power", [1, 2, 4, 8])
def test_no_power_of_large_features_overflows(power: float) -> None:
    s, t = normal(4, 3, 6, 6), normal(4, 3, 6, 6)
    expected = float(attention_transfer(s, t, power=power))
    found = attention_transfer((6e4 * s).float(), t.float(), power=power)
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_attention_of_a_dead_map_has_no_gradient() -> None:
    t = normal(4, 3, 6, 6)
    for power in (1, 2):
        found = gradient(lambda f, p=power: attention_transfer(f, t, power=p), torch.zeros_like(t))
        assert float(found.abs().max()) == 0.0


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_contexts_as_large_as_the_map_are_left_out(size: int, axes: int) -> None:
    space = [size] * axes
    s, t = normal(2, 3, *space), normal(2, 3, *space)
    pool = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d}[axes]
    terms = [(s - t).square().mean()]
    terms += [(pool(s, n) - pool(t, n)).square().mean() for n in (4, 2, 1) if n < size]
    weights = [1.0, 0.5, 0.25, 0.125][: len(terms)]
    expected = sum(float(w * x) for w, x in zip(weights, terms, strict=True)) / sum(weights)
    assert float(hierarchical_context(s, t)) == pytest.approx(expected, rel=1e-12)


def test_features_split_into_heads() -> None:
    q, k, tq, tk = (normal(2, 4, 5, 3) for _ in range(4))
    flat = [each.transpose(1, 2).flatten(2) for each in (q, k, tq, tk)]
    expected = float(attention_relation(q, k, tq, tk))
    assert float(attention_relation(*flat, heads=4)) == pytest.approx(expected, rel=1e-12)
    assert float(attention_relation(*flat, heads=2)) != pytest.approx(expected, rel=1e-3)


def test_attention_of_other_widths_is_compared() -> None:
    """Keys and queries that zeros make wider attend alike, but for the root of the width."""
    q, k = normal(2, 4, 5, 3), normal(2, 4, 5, 3)
    wide_q, wide_k = (F.pad(each * (12 / 3) ** 0.25, (0, 9)) for each in (q, k))
    assert float(attention_relation(wide_q, wide_k, q, k)) == pytest.approx(0, abs=1e-12)


# ---- what is refused ------------------------------------------------------------------------


@dataclass(frozen=True)
class Refused:
    """A call, and what its message has to say."""

    name: str
    shapes: list[tuple[int, ...]]
    message: str
    options: dict[str, Any] = field(default_factory=dict)


ATTENTION = "attention_relation"
REFUSED = [
    Refused(
        "attention_transfer", [(8, 3, 6)] * 2, "power must be 1 or more .* got 0.5", {"power": 0.5}
    ),
    Refused(
        "attention_transfer", [(8, 3, 6)] * 2, "power must be 1 or .* got inf", {"power": math.inf}
    ),
    Refused("attention_transfer", [(8, 3)] * 2, r"\(8, 3\).* are not maps"),
    Refused(
        "attention_transfer", [(8, 3, 6, 6), (8, 3, 6)], r"\(8, 3, 6, 6\).*\(8, 3, 6\) are not"
    ),
    Refused("hierarchical_context", [(8, 3)] * 2, r"\(8, 3\) are not maps"),
    Refused("contrastive", [(8,)] * 2, r"\(8,\) are not batch x features"),
    Refused("contrastive", [(8, 5)] * 2, "temperature must be .* got 0", {"temperature": 0}),
    Refused("relational_angle", [(8,), (8,)], r"\(8,\).* are not batch x features of the same"),
    Refused("hint", [(8, 5), (8, 4)], r"student .*\(8, 5\) and teacher .*\(8, 4\) differ"),
    Refused(ATTENTION, [(2, 5, 12)] * 4, "is not .* of heads = 5", {"heads": 5}),
    Refused(ATTENTION, [(2, 5, 12)] * 4, "is not .* of heads = None"),
    Refused(ATTENTION, [(2, 5, 12)] * 4, "is not .* of heads = 0", {"heads": 0}),
    Refused(ATTENTION, [(2, 4, 5, 3)] * 4, "is not .* of heads = 3", {"heads": 3}),
    Refused(ATTENTION, [(2, 4, 5, 3)] * 2 + [(2, 6, 5, 3)] * 2, r"heads .*\(2, 4, .*\(2, 6, "),
    Refused(
        ATTENTION,
        [(2, 4, 5, 3)] * 3 + [(2, 4, 5, 7)],
        r"teacher queries \(2, 4, 5, 3\) and keys \(2, 4, 5, 7\) differ in width",
    ),
]


@pytest.mark.parametrize("refused", REFUSED, ids=lambda refused: refused.name)
def test_what_cannot_be_compared_is_refused_with_what_was_given(refused: Refused) -> None:
    tensors = [normal(*shape) for shape in refused.shapes]
    with pytest.raises(ValueError, match=refused.message):
        LOSSES[refused.name](*tensors, **refused.options)
