"""Channels are removed with all that depends on them, or stay where that is not followed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from edgekd.errors import RecipeError
from edgekd.network.network import Network, as_network, call
from edgekd.pruning.dependencies import untouchable
from edgekd.pruning.importance import GRADIENTS, IMPORTANCES, gradients_of
from edgekd.pruning.structure import ChannelOptions, prune_channels
from tests.support.models import TRAPS


class Grouped(nn.Module):
    """A grouped convolution between two others."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(32)
        self.grouped, self.last = nn.Conv2d(16, 32, 3, groups=4), nn.Conv2d(32, 16, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(
            self.last(self.norm(self.grouped(self.stem(x).relu())).relu()).mean((2, 3))
        )


class Split(nn.Module):
    """Two halves of one convolution's channels go two ways."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.right, self.head = nn.Conv2d(16, 16, 1), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.stem(x).sigmoid().chunk(2, 1)
        return self.head(torch.cat([self.left(left), self.right(right)], 1).mean((2, 3)))


class Shuffled(nn.Module):
    """Channels become space."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.shuffle, self.last = nn.PixelShuffle(2), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.shuffle(self.wide(self.stem(x).relu()).relu()))


class TwoHeads(nn.Module):
    """Two outputs of one body."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3))
        self.classes, self.box = nn.Linear(32, 5), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.body(x).mean((2, 3))
        return {"classes": self.classes(features), "box": self.box(features)}


class Recurrent(nn.Module):
    """A recurrent layer between two linear ones."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.enter, self.cells = nn.Linear(6, 16), kind(16, 32, batch_first=True)
        self.leave, self.head = nn.Linear(32, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.leave(self.cells(self.enter(x))[0][:, -1]).relu())


def image() -> Tensor:
    return torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def steps() -> Tensor:
    return torch.randn(2, 7, 6, generator=torch.Generator().manual_seed(1))


def transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True)
    return nn.Sequential(nn.Linear(6, 32), layer, nn.Linear(32, 5))


MORE: dict[str, Callable[[], Network]] = {
    "grouped": lambda: as_network(Grouped().eval(), image()),
    "split": lambda: as_network(Split().eval(), image()),
    "shuffled": lambda: as_network(Shuffled().eval(), image()),
    "two-heads": lambda: as_network(TwoHeads().eval(), image()),
    "gru": lambda: as_network(Recurrent(nn.GRU).eval(), steps()),
    "lstm": lambda: as_network(Recurrent(nn.LSTM).eval(), steps()),
    "transformer": lambda: as_network(transformer().eval(), steps()),
}


def network(name: str) -> Network:
    torch.manual_seed(0)
    if name in MORE:
        return MORE[name]()
    return as_network(TRAPS[name].build(), TRAPS[name].draw(2, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("name", [*TRAPS, *MORE])
@pytest.mark.parametrize("everywhere", [False, True])
def test_inputs_and_outputs_keep_their_shapes_and_what_stays_is_told(
    name: str, everywhere: bool
) -> None:
    net = network(name)
    before = net.weights_digest()
    found = prune_channels(net.module, net.example, 0.5, ChannelOptions(everywhere=everywhere))
    ours = as_network(found.module, net.example)
    assert ours.signature == net.signature
    assert net.weights_digest() == before, "the network given is not changed"
    assert all(entry.reason for entry in found.untouched)
    for layer, (wide, narrow) in found.widths.items():
        assert 0 < narrow < wide, layer
    assert (ours.parameter_count < net.parameter_count) == bool(found.widths)


@pytest.mark.parametrize(
    ("name", "narrower"),
    [
        ("residual", {"stem": (8, 4), "body.0": (8, 4)}),
        ("depthwise", {"stem": (8, 4), "deep": (8, 4), "gate": (8, 4)}),
        ("grouped", {"stem": (16, 8), "grouped": (32, 16), "last": (16, 8)}),
        ("two-heads", {"body.0": (16, 8), "body.2": (32, 16)}),
        ("signal", {"body.0": (8, 4), "body.3": (8, 4)}),
        ("gru", {"leave": (16, 8)}),
    ],
)
def test_each_layer_loses_its_share(name: str, narrower: dict[str, tuple[int, int]]) -> None:
    net = network(name)
    assert prune_channels(net.module, net.example, 0.5).widths == narrower


@pytest.mark.parametrize("importance", ["l1", "l2"])
def test_channels_that_do_nothing_are_removed_and_nothing_changes(importance: str) -> None:
    """Every second channel is dead, in all that writes and reads it: these are the ones to go."""
    net = network("residual")
    dead = [0, 2, 4, 6]
    module = net.module
    with torch.no_grad():
        for layer in (module.stem, module.body[0], module.body[1]):  # type: ignore[union-attr, index]
            for tensor in (layer.weight, layer.bias):  # type: ignore[union-attr]
                if tensor is not None:
                    tensor[dead] = 0.0  # type: ignore[index]
        module.body[0].weight[:, dead] = 0.0  # type: ignore[union-attr, index]
        module.head.weight[:, dead] = 0.0  # type: ignore[union-attr, index]
    found = prune_channels(module, net.example, 0.5, ChannelOptions(importance=importance))
    assert found.widths["stem"] == (8, 4)
    expected = net(net.example)["output"]
    assert torch.allclose(
        as_network(found.module, net.example)(net.example)["output"], expected, atol=1e-6
    )


def test_what_the_tracing_follows_wrongly_stays() -> None:
    stay = {entry.layer: entry.reason for entry in untouchable(*_of("shuffled"))}
    assert "wide" in stay
    stay = {entry.layer: entry.reason for entry in untouchable(*_of("lstm"))}
    assert "recurrent" in stay["cells"]


def _of(name: str) -> tuple[nn.Module, dict[str, Tensor]]:
    net = network(name)
    return net.module, dict(net.example)


def test_layers_that_are_named_keep_their_channels() -> None:
    net = network("residual")
    assert (
        prune_channels(net.module, net.example, 0.5, ChannelOptions(ignore=["body"])).widths == {}
    )
    with pytest.raises(RecipeError, match="did you mean 'body'"):
        prune_channels(net.module, net.example, 0.5, ChannelOptions(ignore=["boddy"]))


@pytest.mark.parametrize("round_to", [2, 4])
def test_what_is_kept_is_a_multiple(round_to: int) -> None:
    net = network("two-heads")
    found = prune_channels(net.module, net.example, 0.3, ChannelOptions(round_to=round_to))
    assert all(after % round_to == 0 for _, after in found.widths.values())


@pytest.mark.parametrize("importance", IMPORTANCES)
def test_every_importance_ranks_channels(importance: str) -> None:
    torch.manual_seed(0)
    net = network("grouped")
    gradients = gradients_of(
        net.module, losses_of(net), squared=GRADIENTS.get(importance) == "squared"
    )
    found = prune_channels(
        net.module, net.example, 0.5, ChannelOptions(importance=importance, gradients=gradients)
    )
    ranked = {"stem": (16, 8), "grouped": (32, 16), "last": (16, 8)}
    if importance == "bn-scale":
        told = {each.layer: each.reason for each in found.untouched}
        for without_norm in ("stem", "last"):
            del ranked[without_norm]
            assert "batch norm" in told[without_norm]
    assert found.widths == ranked
    if importance in GRADIENTS:
        with pytest.raises(RecipeError, match="needs gradients"):
            prune_channels(net.module, net.example, 0.5, ChannelOptions(importance=importance))


def losses_of(net: Network) -> Callable[[nn.Module], list[Tensor]]:
    """The losses of two samples, each alone."""
    samples = [
        {key: value[place : place + 1] for key, value in net.example.items()} for place in (0, 1)
    ]
    return lambda module: [call(module, each)["output"].square().sum() for each in samples]


def test_a_network_that_cannot_be_traced_is_told() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0
            self.head = nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            if self.calls > 0 and x.requires_grad is False and torch.is_grad_enabled():
                raise RuntimeError("no gradients here")
            return self.head(x)

    with torch.no_grad():
        module = Branching().eval()
    with pytest.raises(RecipeError, match="cannot be traced") as caught:
        prune_channels(module, {"x": torch.zeros(1, 4)}, 0.5)
    assert "Branching" in caught.value.faults[0].at


class Shuffles(nn.Module):
    """ShuffleNetV2's way of channels, again and again."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.units, self.stem, self.branch = units, nn.Conv2d(3, 16, 1), nn.Conv2d(8, 8, 1)
        self.head = nn.Conv2d(16, 5, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        for _ in range(self.units):
            left, right = x.chunk(2, 1)
            x = torch.cat([left, self.branch(right)], 1)
            n, c, h, w = x.shape
            x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(x)


def test_channels_that_are_shuffled_twice_are_not_followed_for_ever() -> None:
    """The library follows them round and round: 7 GB and minutes for a network of 3 kB."""
    net = as_network(Shuffles(2).eval(), torch.randn(1, 3, 8, 8))
    found = prune_channels(net.module, net.example, 0.5)
    assert found.widths == {}
    assert found.untouched
    assert all("cannot be traced" in entry.reason for entry in found.untouched)


def test_channels_that_are_shuffled_more_often_are_told_with_the_way_that_works() -> None:
    net = as_network(Shuffles(3).eval(), torch.randn(1, 3, 8, 8))
    with pytest.raises(RecipeError, match="cannot be traced") as caught:
        prune_channels(net.module, net.example, 0.5)
    assert "unstructured" in caught.value.faults[0].fix
