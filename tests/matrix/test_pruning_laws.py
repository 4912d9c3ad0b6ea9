"""What holds of every pruned network, on all traps and all architectures.

What is left of a network is found without asking what removed it: a copy in which every value is
its own number is pruned the same way, and the numbers that are left say which values stay.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

import edgekd
from edgekd.errors import ConversionError, RecipeError
from edgekd.formats import FORMATS
from edgekd.network.network import Network, as_network, call
from edgekd.pruning.search import Measure, drop_to
from edgekd.pruning.sparsity import apply_masks, density, magnitude_masks, n_of_m_masks
from edgekd.pruning.structure import ChannelOptions, Pruned, Removal, prune_channels, without
from edgekd.tasks.evaluate import count_macs
from tests.support.architectures import ARCHITECTURES
from tests.support.models import TRAPS, Trap
from tests.support.skips import need_modules

ALL: dict[str, Trap] = {**TRAPS, **ARCHITECTURES}

UNTRACEABLE = {
    "shufflenet-v2": "torch-pruning 1.6.1 divides by zero over channels shuffled more than once",
}
"""What is refused whole, and why."""

NAMES = [name for name in ALL if name not in UNTRACEABLE]

WHOLE = {
    "concat": "channels that are concatenated and then flattened are not followed",
    "two-inputs": "its only hidden channels are an output",
    "recurrent": "it has a recurrent layer alone, and an output layer",
}
"""Networks of which nothing can be removed, and why."""

NORMED = {
    "convnext": "layer norms over the channels of the residual stream",
    "vit": "layer norms over the channels of the residual stream",
    "bert": "layer norms over the channels of the residual stream",
}
"""Where zeros are not enough: a norm counts them. The same norm over what is left is then asked."""

UNCOUNTED = {
    "crnn": "FlopCounterMode of torch 2.13 counts nothing for an LSTM",
    "recurrent": "nothing of it is removed, and a GRU's weights are used once a step",
}
"""Networks whose multiply-accumulates are not predicted, and why."""

NOT_IN_NCNN = {"vit": "torch.unbind"}
"""What pnnx has no layer of ncnn for, and says so: queries, keys and values of pruned heads."""

CLOSE = 1e-9
"""Most relative difference of two networks in float64: another order of sums."""


@dataclass(frozen=True)
class Case:
    """A network, what was removed of it, and by name where its values are left, by their numbers.

    Shared by tests: none changes it.
    """

    net: Network
    found: Pruned
    left: Mapping[str, Tensor]


def network(name: str) -> Network:
    trap = ALL[name]
    return as_network(trap.build(), trap.draw(2, torch.Generator().manual_seed(0)))


@functools.cache
def case(name: str, everywhere: bool = False) -> Case:
    net = network(name)
    found = prune_channels(net.module, net.example, 0.5, ChannelOptions(everywhere=everywhere))
    return Case(net, found, left_of(net, found.removed))


def left_of(net: Network, removed: Removal) -> dict[str, Tensor]:
    """By parameter and buffer, the numbers of the values that are left, shaped as they then are."""
    numbered = copy.deepcopy(net.module).double()
    with torch.no_grad():
        for value in numbered.state_dict().values():
            value.copy_(torch.arange(value.numel()).view(value.shape))
    after = without(numbered, doubled(net.example), removed).state_dict()
    return {name: value.round().long() for name, value in after.items()}


def doubled(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: value.double() if value.is_floating_point() else value
        for name, value in inputs.items()
    }


def masked(net: Network, left: Mapping[str, Tensor], *, norms: bool = True) -> nn.Module:
    """The network as it was, with zeros for all that is not left.

    Args:
        norms: whether layer norms are over what is left, as their absence comes to.
    """
    module = copy.deepcopy(net.module)
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            gone = torch.ones(value.numel(), dtype=torch.bool)
            gone[left[name].flatten()] = False
            value[gone.view(value.shape)] = 1.0 if name.endswith("running_var") else 0.0
    for name, layer in module.named_modules():
        if norms and isinstance(layer, nn.LayerNorm):
            layer.register_forward_hook(norm_over(left[f"{name}.weight"]))
    return module


def norm_over(
    channels: Tensor,
) -> Callable[[nn.LayerNorm, tuple[Tensor, ...], Tensor], Tensor]:
    def hook(layer: nn.LayerNorm, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        some = inputs[0][..., channels]
        weight, bias = layer.weight[channels], layer.bias[channels]
        found = torch.zeros_like(output)
        found[..., channels] = F.layer_norm(some, weight.shape, weight, bias, layer.eps)
        return found

    return hook


def outputs(module: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """In float64: what differs by more than an order of sums is another network."""
    with torch.no_grad():
        return call(copy.deepcopy(module).double().eval(), doubled(inputs))


def apart(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """The largest difference of an output, as a share of its largest value."""
    assert {key: value.shape for key, value in ours.items()} == {
        key: value.shape for key, value in theirs.items()
    }
    assert all(float(value.std()) > 0 for value in theirs.values()), "nothing is compared"
    return max(
        float((ours[key] - theirs[key]).abs().max() / theirs[key].abs().max()) for key in ours
    )


def same(ours: nn.Module, theirs: nn.Module) -> bool:
    """Whether two modules hold the same, bit for bit."""
    left, right = ours.state_dict(), theirs.state_dict()
    return list(left) == list(right) and all(torch.equal(left[key], right[key]) for key in left)


@pytest.mark.parametrize("everywhere", [False, True], ids=["each-layer", "everywhere"])
@pytest.mark.parametrize("name", NAMES)
def test_a_pruned_network_is_the_masked_one(name: str, everywhere: bool) -> None:
    this = case(name, everywhere)
    ours = outputs(this.found.module, this.net.example)
    assert apart(ours, outputs(masked(this.net, this.left), this.net.example)) < CLOSE
    if this.found.widths:
        assert apart(ours, outputs(this.net.module, this.net.example)) > 1e-4, "it is another one"


@pytest.mark.parametrize("name", NAMES)
def test_only_norms_over_channels_see_that_they_are_gone(name: str) -> None:
    this = case(name)
    zeroed = masked(this.net, this.left, norms=False)
    differs = apart(outputs(this.found.module, this.net.example), outputs(zeroed, this.net.example))
    assert (differs > 1e-4) == (name in NORMED)


@pytest.mark.parametrize("everywhere", [False, True], ids=["each-layer", "everywhere"])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_left_has_the_values_it_had(name: str, everywhere: bool) -> None:
    this = case(name, everywhere)
    before, after = this.net.module.state_dict(), this.found.module.state_dict()
    assert list(before) == list(after) == list(this.left)
    for key, value in after.items():
        if value.is_floating_point():
            assert torch.equal(value, before[key].flatten()[this.left[key]]), key


@pytest.mark.parametrize("everywhere", [False, True], ids=["each-layer", "everywhere"])
@pytest.mark.parametrize("name", NAMES)
def test_the_same_is_removed_again_from_a_file(name: str, everywhere: bool) -> None:
    this = case(name, everywhere)
    removed = Removal.from_json(json.loads(json.dumps(this.found.removed.to_json())))
    assert removed == this.found.removed
    for each in (this.found.removed, removed):
        again = without(this.net.module, this.net.example, each)
        assert same(again, this.found.module)
        ours = outputs(again, this.net.example)
        theirs = outputs(this.found.module, this.net.example)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("name", NAMES)
def test_the_signature_is_unchanged_for_any_batch(name: str) -> None:
    this = case(name)
    assert as_network(this.found.module, this.net.example).signature == this.net.signature
    for count in (1, 3):
        inputs = ALL[name].draw(count, torch.Generator().manual_seed(count))
        ours, theirs = outputs(this.found.module, inputs), outputs(this.net.module, inputs)
        assert {key: (value.shape, value.dtype) for key, value in ours.items()} == {
            key: (value.shape, value.dtype) for key, value in theirs.items()
        }
        assert all(len(value) == count for value in ours.values())


@pytest.mark.parametrize("everywhere", [False, True], ids=["each-layer", "everywhere"])
@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_as_many_as_are_left_and_fewer(name: str, everywhere: bool) -> None:
    this = case(name, everywhere)
    count = this.net.with_module(this.found.module).parameter_count
    assert count == sum(this.left[key].numel() for key, _ in this.net.module.named_parameters())
    if name in WHOLE:
        assert same(this.found.module, this.net.module)
        assert this.found.untouched, "why is told"
    else:
        assert count < this.net.parameter_count


def uses_of(net: Network) -> dict[str, tuple[int, int]]:
    """By layer, how often its weights are used for one sample, and its tokens, if it has any."""
    found: dict[str, tuple[int, int]] = {}
    names = {layer: name for name, layer in net.module.named_modules()}

    def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        places = inputs[0] if isinstance(layer, _ConvTransposeNd) else output
        channels = places.shape[1 if isinstance(layer, _ConvNd) else -1]
        tokens = output.shape[-2] if output.dim() == 3 else 0
        count = found.get(names[layer], (0, 0))[0] + places[:1].numel() // channels
        found[names[layer]] = (count, tokens)

    layers = [layer for layer in names if isinstance(layer, _ConvNd | nn.Linear)]
    hooks = [layer.register_forward_hook(hook) for layer in layers]
    with torch.no_grad():
        call(net.module, net.example)
    for each in hooks:
        each.remove()
    return found


def predicted_macs(net: Network, left: Mapping[str, Tensor]) -> int:
    """Of the network as it was, with weights only where some are left; attention's products too."""
    total = 0
    for name, (uses, tokens) in uses_of(net).items():
        weight = left[f"{name}.weight"]
        total += uses * weight.numel()
        # Queries by keys, and what comes of them by values: tokens x tokens of a head's channels.
        kind = name.rpartition(".")[2]
        if kind in ("qkv", "query", "value"):
            total += tokens**2 * (2 * len(weight) // 3 if kind == "qkv" else len(weight))
    return total


@pytest.mark.parametrize("everywhere", [False, True], ids=["each-layer", "everywhere"])
@pytest.mark.parametrize("name", [name for name in NAMES if name not in UNCOUNTED])
def test_multiply_accumulates_are_as_many_as_predicted(name: str, everywhere: bool) -> None:
    this = case(name, everywhere)
    whole = {key: torch.zeros_like(value) for key, value in this.net.module.state_dict().items()}
    before = predicted_macs(this.net, whole)
    after = predicted_macs(this.net, this.left)
    assert count_macs(this.net) == before
    assert count_macs(this.net.with_module(this.found.module)) == after
    assert (after < before) == (name not in WHOLE)


@pytest.mark.parametrize("name", UNTRACEABLE)
def test_what_cannot_be_followed_is_refused(name: str) -> None:
    net = network(name)
    with pytest.raises(RecipeError, match="cannot be traced"):
        prune_channels(net.module, net.example, 0.5)


@pytest.mark.parametrize("name", ["resnet", "resnext", "mobilenet-v2", "unet", "vit", "ssd"])
def test_what_is_left_of_each_layer_is_a_multiple_of_eight(name: str) -> None:
    net = network(name)
    found = prune_channels(net.module, net.example, 0.5, ChannelOptions(round_to=8))
    assert found.widths
    heads = {f"{path}.{each}" for path, _ in found.removed.heads for each in ("qkv", "proj")}
    for layer, (_, narrow) in found.widths.items():
        assert narrow % 8 == 0 or layer in heads, layer
    masks = masked(net, left_of(net, found.removed))
    assert apart(outputs(found.module, net.example), outputs(masks, net.example)) < CLOSE


@pytest.mark.parametrize("name", ["vit", "bert"])
def test_each_attention_loses_half_its_heads_whole(name: str) -> None:
    """Of four heads of eight channels: each row and column of a head stays or goes with it."""
    this = case(name)
    assert [len(gone) for _, gone in this.found.removed.heads] == [2, 2]
    for path, gone in this.found.removed.heads:
        kept = [head for head in range(4) if head not in gone]
        rows = [head * 8 + each for head in kept for each in range(8)]
        for layer in ("qkv",) if name == "vit" else ("query", "key", "value"):
            parts = this.left[f"{path}.{layer}.bias"].view(3 if layer == "qkv" else 1, -1)
            assert [row.tolist() for row in parts % 32] == [rows] * len(parts)
        out = this.left[f"{path}.{'proj' if name == 'vit' else 'dense'}.weight"]
        assert (out % 32).unique().tolist() == rows


@pytest.mark.parametrize("name", ["resnet", "mobilenet-v2", "bert", "tcn"])
def test_two_of_four_stay_out_when_channels_go(name: str) -> None:
    """Zeros are where they were; and two of four of what is left are as many as were asked for."""
    net = network(name)
    masks = n_of_m_masks(net.module, 2, 4)
    assert len(masks) > 3
    apply_masks(net.module, masks)
    assert density(net.module, masks) == 0.5
    found = prune_channels(net.module, net.example, 0.5, ChannelOptions(round_to=4))
    left = left_of(net, found.removed)
    weights = dict(found.module.named_parameters())
    for key, kept in masks.items():
        assert not weights[key][~kept.flatten()[left[key]]].any()
    again = n_of_m_masks(found.module, 2, 4)
    assert again
    apply_masks(found.module, again)
    assert density(found.module, again) <= 0.5
    for kept in again.values():
        assert (kept.movedim(1, -1).reshape(-1, 4).sum(1) == 2).all()


@pytest.mark.parametrize(
    ("name", "path", "most"),
    [("vit", "blocks", 1), ("bert", "layer", 1), ("resnet", "features.2", 2)],
)
def test_whole_blocks_go_and_the_others_are_as_they_were(name: str, path: str, most: int) -> None:
    net = network(name)

    def count(module: nn.Module) -> float:
        return float(sum(value.numel() for value in module.parameters()))

    def loss(module: nn.Module) -> float:
        theirs = outputs(net.module, net.example)["output"]
        return float((outputs(module, net.example)["output"] - theirs).square().mean())

    blocks = dict(net.module.get_submodule(path).named_children())
    share = 1 - most * min(map(count, blocks.values())) / count(net.module)
    measure = Measure(count, count(net.module))
    found = drop_to(net.module, path, net.example, share + 1e-6, measure, loss)
    ((where, gone),) = found.pruned.removed.blocks
    assert (where, len(gone)) == (path, most)
    assert found.kept_frac == pytest.approx(share, abs=1e-6)
    others = [block for key, block in blocks.items() if key not in gone]
    rest = found.pruned.module.get_submodule(path).children()
    assert all(same(*pair) for pair in zip(rest, others, strict=True))
    again = without(net.module, net.example, found.pruned.removed)
    assert same(again, found.pruned.module)
    assert as_network(again, net.example).signature == net.signature
    # The masked one: what a block adds is nothing, so what goes in comes out.
    for key in gone:
        blocks[key].register_forward_hook(lambda block, inputs, output: inputs[0])  # noqa: ARG005
    ours, theirs = outputs(again, net.example), outputs(net.module, net.example)
    assert torch.equal(ours["output"], theirs["output"])


class Offset(nn.Module):
    """Channels split in two and shuffled, which is followed wrongly, and a large constant."""

    def __init__(self, offset: float) -> None:
        super().__init__()
        self.wide, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 2, 1)
        self.offset = offset

    def forward(self, image: Tensor) -> Tensor:
        batch, channels, *space = (wide := self.wide(image)).shape
        shuffled = wide.view(batch, 2, channels // 2, *space).transpose(1, 2)
        return self.last(shuffled.reshape(batch, channels, *space)) + self.offset


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_what_is_followed_wrongly_stays_whatever_is_added_to_the_output(offset: float) -> None:
    torch.manual_seed(0)
    image = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = prune_channels(Offset(offset), {"image": image}, 0.5)
    assert found.widths == {}
    assert "wide" in {entry.layer for entry in found.untouched}


@pytest.mark.parametrize("name", ["resnet", "bert", "tcn"])
def test_two_of_four_stay_through_a_step_of_training(name: str) -> None:
    net = network(name)
    module = copy.deepcopy(net.module).train()
    masks = n_of_m_masks(module, 2, 4)
    assert masks
    apply_masks(module, masks)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    net.with_module(module)(net.example)["output"].square().sum().backward()
    optimizer.step()
    assert density(module, masks) > 0.5
    apply_masks(module, masks)
    assert density(module, masks) == pytest.approx(0.5, abs=0.01)


def test_blocks_heads_and_channels_go_together_and_again() -> None:
    net = network("vit")
    shorter = without(net.module, net.example, Removal(blocks=(("blocks", ("1",)),)))
    found = prune_channels(shorter, net.example, 0.5)
    both = Removal((("blocks", ("1",)),), found.removed.heads, found.removed.channels)
    assert both.heads
    assert both.channels
    read = Removal.from_json(json.loads(json.dumps(both.to_json())))
    assert same(without(net.module, net.example, read), found.module)


def agrees(net: Network, name: str, format: str, scheme: str, out: Path) -> None:
    """Exports the network, runs the file and asserts that both say the same."""
    generator = torch.Generator().manual_seed(1)
    samples = [ALL[name].draw(1, generator) for _ in range(64)]
    single = as_network(net.module, samples[0])
    artifact = edgekd.export(single, format=format, scheme=scheme, calibration=samples, out=out)
    found = edgekd.verify(artifact, single, samples, min_agreement=0.9)
    assert found.outcome is edgekd.Outcome.PASSED, found.detail
    assert found.sample_count == 64


@pytest.mark.converter
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", NAMES)
def test_a_pruned_network_is_exported_and_verified(name: str, format: str, tmp_path: Path) -> None:
    need_modules(*FORMATS[format].PACKAGES)
    this = case(name)
    pruned = this.net.with_module(this.found.module)
    if format == "ncnn" and name in NOT_IN_NCNN:
        with pytest.raises(ConversionError, match=NOT_IN_NCNN[name]):
            agrees(pruned, name, format, "fp32", tmp_path)
        return
    agrees(pruned, name, format, "fp32", tmp_path)


@pytest.mark.converter
@pytest.mark.parametrize("format", ["onnx", "openvino", "litert"])
@pytest.mark.parametrize("name", ["resnet", "mobilenet-v3", "tcn"])
def test_a_pruned_network_is_quantized_and_verified(name: str, format: str, tmp_path: Path) -> None:
    need_modules(*FORMATS[format].PACKAGES)
    this = case(name)
    agrees(this.net.with_module(this.found.module), name, format, "int8", tmp_path)


@pytest.mark.converter
@pytest.mark.parametrize("scheme", ["fp32", "fp16"])
@pytest.mark.parametrize("format", FORMATS)
def test_zeros_survive_export_and_make_a_smaller_file_where_that_is_claimed(
    format: str, scheme: str, tmp_path: Path
) -> None:
    need_modules(*FORMATS[format].PACKAGES)
    torch.manual_seed(0)
    layers = [nn.Linear(32, 256), nn.ReLU(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 5)]
    module = nn.Sequential(*layers).eval()
    net = as_network(module, torch.zeros(1, 32))
    whole = edgekd.export(net, format=format, scheme=scheme, out=tmp_path / "whole")
    sparse = copy.deepcopy(module)
    apply_masks(sparse, magnitude_masks(sparse, 0.75))
    found = edgekd.export(net.with_module(sparse), format=format, scheme=scheme, out=tmp_path)
    assert whole.zipped_bytes is not None
    assert found.zipped_bytes is not None
    assert found.zipped_bytes < 0.6 * whole.zipped_bytes
    stored_sparsely = found.size_bytes < 0.6 * whole.size_bytes
    assert stored_sparsely == (format == "coreml"), FORMATS[format].SPARSE
