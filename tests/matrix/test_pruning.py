"""How much is removed: by channels to a share of what is measured, and by single weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from edgekd.errors import RecipeError
from edgekd.network.network import Network, as_network
from edgekd.pruning.search import TRIALS, Found, Measure, prune_to
from edgekd.pruning.sparsity import (
    apply_masks,
    density,
    magnitude_masks,
    n_of_m_masks,
    sparse_weights,
)
from edgekd.pruning.structure import ChannelOptions, Pruned, prune_channels
from edgekd.tasks.evaluate import count_macs


def network() -> Network:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
    layers += [nn.Conv2d(32, 64, 3, stride=2), nn.BatchNorm2d(64), nn.ReLU()]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5)]
    return as_network(nn.Sequential(*layers).eval(), torch.zeros(1, 3, 16, 16))


def narrowed(
    net: Network,
    keep: float,
    measure: Callable[[nn.Module], float],
    what: str = "of the network",
    **options: Any,
) -> Found:
    def prune(remove_frac: float) -> Pruned:
        return prune_channels(net.module, net.example, remove_frac, ChannelOptions(**options))

    return prune_to(keep, prune, Measure(measure, measure(net.module), what))


def parameters(module: nn.Module) -> float:
    return float(sum(each.numel() for each in module.parameters()))


@pytest.mark.parametrize(
    ("keep", "everywhere"),
    [
        (1.0, True),
        (0.75, False),
        (0.75, True),
        (0.5, False),
        (0.5, True),
        (0.25, True),
        (0.1, False),
    ],
)
def test_what_is_left_is_just_under_what_was_asked_for(keep: float, everywhere: bool) -> None:
    net = network()
    found = narrowed(net, keep, parameters, everywhere=everywhere)
    left = parameters(found.pruned.module) / parameters(net.module)
    assert found.kept_frac == pytest.approx(left)
    assert 0.85 * keep <= left <= keep
    assert len(found.trials) <= TRIALS


@pytest.mark.parametrize("keep", [0.5, 0.25])
def test_macs_are_as_counted(keep: float) -> None:
    """By hand: a convolution's are outputs x inputs x kernel x positions."""
    net = network()

    def macs(module: nn.Module) -> float:
        return count_macs(net.with_module(module))

    found = narrowed(net, keep, macs)
    first, second = (found.pruned.widths[name][1] for name in ("0", "3"))
    by_hand = 9 * 3 * first * 256 + 9 * first * second * 49 + second * 5
    assert found.kept_frac == pytest.approx(by_hand / macs(net.module))
    assert found.kept_frac <= keep


def test_keeping_all_changes_nothing() -> None:
    net = network()
    found = narrowed(net, 1.0, parameters)
    assert found.pruned.widths == {}
    assert torch.equal(
        net.with_module(found.pruned.module)(net.example)["output"], net(net.example)["output"]
    )


@pytest.mark.parametrize("keep", [0.0, -0.5, 1.5, float("nan")])
def test_an_invalid_share_is_refused(keep: float) -> None:
    net = network()
    with pytest.raises(RecipeError, match=r"`keep` must be in \(0, 1\]"):
        narrowed(net, keep, parameters)


def test_an_unreachable_share_is_reported_with_the_best_candidate() -> None:
    net = network()
    with pytest.raises(RecipeError, match="Pruning cannot keep as little as") as caught:
        narrowed(net, 0.3, parameters, "of the parameters", ignore=["0", "3"])
    fault = caught.value.faults[0]
    assert "the smallest candidate keeps 1.000" in fault.got
    assert "0 (asked for)" in fault.expected


@pytest.mark.parametrize("remove", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("everywhere", [False, True])
def test_the_smallest_weights_go_and_exactly_so_many(remove: float, everywhere: bool) -> None:
    net = network()
    weights = {name: tensor.clone() for name, tensor in sparse_weights(net.module).items()}
    masks = magnitude_masks(net.module, remove, everywhere=everywhere)
    apply_masks(net.module, masks)
    assert density(net.module) == pytest.approx(1 - remove, abs=1e-3)
    for name, kept in masks.items():
        before, after = weights[name], dict(net.module.named_parameters())[name]
        assert torch.equal(after, before * kept)
        if not everywhere and remove > 0:
            assert before[kept].abs().min() >= before[~kept].abs().max()


def test_two_of_four_along_the_inputs() -> None:
    net = network()
    masks = n_of_m_masks(net.module, 2, 4)
    assert set(masks) == {"3.weight", "8.weight"}, "three inputs are no multiple of four"
    for name, kept in masks.items():
        groups = kept.movedim(1, -1).reshape(-1, 4)
        assert (groups.sum(1) == 2).all()
        values = dict(net.module.named_parameters())[name].abs().movedim(1, -1).reshape(-1, 4)
        assert (
            values.masked_fill(~groups, 9).amin(1) >= values.masked_fill(groups, 0).amax(1)
        ).all()
    apply_masks(net.module, masks)
    assert density(net.module, masks) == 0.5


@pytest.mark.parametrize(("n", "m"), [(0, 4), (4, 4), (5, 4), (-1, 2)])
def test_a_pattern_that_is_none_is_told(n: int, m: int) -> None:
    with pytest.raises(RecipeError, match="not a pattern of n of m kept values"):
        n_of_m_masks(network().module, n, m)
