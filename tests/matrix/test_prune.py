"""One cut of a network, as a library call: what is left, and the same cut again from its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch.utils.data import TensorDataset

import edgekd
from edgekd.errors import RecipeError
from edgekd.network.network import Network, as_network
from edgekd.pruning.importance import IMPORTANCES
from edgekd.pruning.prune import load_pruned, save_pruned
from edgekd.recipe.pruning import Prune
from edgekd.tasks.evaluate import count_macs
from tests.support.architectures import ARCHITECTURES


@pytest.fixture(scope="module")
def net() -> Network:
    return network("resnet")


def network(name: str) -> Network:
    trap = ARCHITECTURES[name]
    return as_network(trap.build(), trap.draw(1, torch.Generator().manual_seed(0)))


@pytest.fixture(scope="module")
def data() -> edgekd.Data:
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> TensorDataset:
        images = torch.randn(count, 3, 32, 32, generator=generator)
        return TensorDataset(images, torch.randint(0, 5, (count,), generator=generator))

    return edgekd.Data(train=split(64), validation=split(64), test=split(8))


def config(**keys: Any) -> Prune:
    return Prune.model_validate({"keep": 0.5, **keys})


@pytest.mark.parametrize("importance", IMPORTANCES)
@pytest.mark.parametrize("scope", ["layer", "global", "sensitivity"])
def test_every_importance_in_every_scope_keeps_what_is_asked_for(
    net: Network, data: edgekd.Data, importance: str, scope: str
) -> None:
    before = net.weights_digest()
    cut = edgekd.prune(net, data, config(importance=importance, scope=scope))
    left = count_macs(cut.network) / count_macs(net)
    assert cut.kept_frac == pytest.approx(left)
    assert 0.4 < left <= 0.5
    assert net.weights_digest() == before
    assert bool(cut.scanned) == (scope == "sensitivity")
    for found in cut.scanned:
        assert [share for share, _ in found.metrics] == [0.0, 0.25, 0.5, 0.75]
        assert all(0 <= metric <= 1 for _, metric in found.metrics)


def test_recipes_offer_the_importances_there_are() -> None:
    offered = get_args(Prune.model_fields["importance"].annotation)
    assert list(offered) == list(IMPORTANCES)


@pytest.mark.parametrize(
    "keys",
    [
        {"scan": True},
        {"method": "unstructured", "scope": "global"},
        {"method": "unstructured", "measure": "parameters"},
        {"method": "n-m"},
    ],
)
def test_the_same_cut_comes_from_its_folder(
    net: Network, data: edgekd.Data, keys: dict[str, Any], tmp_path: Path
) -> None:
    cut = edgekd.prune(net, data, config(**keys))
    save_pruned(cut, tmp_path)
    again = load_pruned(net, tmp_path)
    assert again.network.weights_digest() == cut.network.weights_digest()
    for name in ("removed", "kept_frac", "trials", "widths", "untouched", "scanned"):
        assert getattr(again, name) == getattr(cut, name), name
    assert {name: mask.tolist() for name, mask in again.masks.items()} == {
        name: mask.tolist() for name, mask in cut.masks.items()
    }


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_of_single_weights_so_many_multiplications_are_left(
    net: Network, data: edgekd.Data, scope: str
) -> None:
    """A weight of a convolution counts once for every position it is used at."""
    cut = edgekd.prune(net, data, config(method="unstructured", keep=0.3, scope=scope))
    used = {"features.0.0": 256}
    used |= {f"features.2.{at}.body.{each}.0": 64 for at in range(3) for each in range(2)}
    used |= {f"features.3.{at}.body.{each}.0": 16 for at in range(2) for each in range(2)}
    used |= {"features.3.0.downsample.0": 16, "head.2": 1}
    kept = {name: int(cut.masks[f"{name}.weight"].sum()) for name in used}
    sizes = {name: cut.masks[f"{name}.weight"].numel() for name in used}
    left = sum(kept[name] * used[name] for name in used)
    whole = sum(sizes[name] * used[name] for name in used)
    assert whole == count_macs(net)
    assert left / whole == pytest.approx(0.3, abs=0.002)
    assert cut.kept_frac == pytest.approx(left / whole)


def test_blocks_go_by_what_the_network_loses(data: edgekd.Data) -> None:
    net = network("vit")
    cut = edgekd.prune(net, data, config(keep=0.7, measure="parameters", blocks="blocks"))
    assert len(cut.removed.blocks[0][1]) == 1
    assert cut.network.signature == net.signature


def test_a_latency_is_searched_with_what_measures_it(net: Network, data: edgekd.Data) -> None:
    asked: list[int] = []

    def measure(module: torch.nn.Module) -> float:
        asked.append(count_macs(net.with_module(module)))
        return 1.0 + asked[-1]  # As a runtime that takes a while for nothing.

    cut = edgekd.prune(net, data, config(measure="latency"), measure=measure)
    assert cut.kept_frac <= 0.5
    assert len(asked) == len(cut.trials) + 1
    with pytest.raises(RecipeError, match="measured where the network will run"):
        edgekd.prune(net, data, config(measure="latency"))


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"ignore": ["featurs"]}, "did you mean 'features'"),
        ({"method": "unstructured", "ignore": ["featurs"]}, "did you mean 'features'"),
        ({"blocks": "featurs"}, "did you mean 'features'"),
        (
            {"method": "unstructured", "ignore": ["features", "head"]},
            "no weights that can be sparse",
        ),
        ({"method": "n-m", "keep": 1 / 1024, "pattern": "1:1024"}, "multiple of 1024"),
        ({"keep": 1e-6}, "the smallest candidate keeps"),
    ],
)
def test_what_cannot_be_cut_is_told(
    net: Network, data: edgekd.Data, keys: dict[str, Any], told: str
) -> None:
    with pytest.raises(RecipeError, match=r"(?s).") as caught:
        edgekd.prune(net, data, config(**keys))
    text = " ".join(str(caught.value).replace("made ", "").split())
    assert told in text
