"""A pruned network is the masked one: on every trap, and on known architectures."""

from __future__ import annotations

import copy
import json
from math import prod
from pathlib import Path

import pytest
import torch
from known_networks import ARCHITECTURES
from models import TRAPS, Trap
from needs import need_modules
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

import edgekd
from edgekd.errors import ConversionError, UnreachableError
from edgekd.evaluate import count_macs
from edgekd.formats import FORMATS
from edgekd.network import Network, as_network
from edgekd.pruning.search import drop_to
from edgekd.pruning.sparsity import apply_masks, density, magnitude_masks, n_of_m_masks
from edgekd.pruning.structure import Pruned, Removal, prune_channels, without

ALL: dict[str, Trap] = {**TRAPS, **ARCHITECTURES}

# Norms over channels see that some are gone, where the same at zero still count.
NORMED = ("convnext", "vit", "bert")

# What cannot be pruned, and why.
WHOLE = {
    "concat": "what becomes of concatenated channels behind flatten is not followed",
    "two-inputs": "an output shows its only inner channels",
    "recurrent": "its recurrent layer is all there is",
}

# Networks with products that no layer holds, and with recurrent layers: not predicted here.
UNPREDICTED = ("attention", "vit", "bert", "recurrent")

# Converters of the tested set cannot do these, pruned or not, and why.
KNOWN_FAILURES = {("recurrent", "coreml"): "coremltools 9.0 has no GRU from torch.export"}


def network(name: str) -> Network:
    trap = ALL[name]
    return as_network(trap.build(), trap.draw(2, torch.Generator().manual_seed(1)))


def pruned(net: Network, remove_frac: float = 0.5, **options: object) -> Pruned:
    return prune_channels(net.module, net.example, remove_frac, **options)  # type: ignore[arg-type]


def left_of(net: Network, removed: Removal) -> dict[str, Tensor]:
    """By parameter and buffer, where its values are left: found on a copy that holds their numbers.

    Nothing of what removes is asked, but where each number went.
    """
    numbered = copy.deepcopy(net.module)
    with torch.no_grad():
        for value in numbered.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.arange(value.numel(), dtype=value.dtype).view(value.shape))
    after = without(numbered, net.example, removed).state_dict()
    found = {}
    for name, value in net.module.state_dict().items():
        mask = torch.zeros(value.numel(), dtype=torch.bool)
        mask[after[name].flatten().long() if value.is_floating_point() else 0] = True
        found[name] = mask.view(value.shape)
    return found


def masked(net: Network, left: dict[str, Tensor]) -> nn.Module:
    """The network with zeros for what is not left."""
    module = copy.deepcopy(net.module)
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            value[~left[name]] = 1.0 if name.endswith("running_var") else 0.0
    return module


def difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The largest, as a share of the largest value."""
    assert {name: value.shape for name, value in ours.items()} == {
        name: value.shape for name, value in theirs.items()
    }
    return max(
        float((ours[name] - theirs[name]).abs().max() / theirs[name].abs().max().clamp_min(1e-6))
        for name in ours
    )


def outputs(net: Network, module: nn.Module) -> dict[str, Tensor]:
    with torch.no_grad():
        return net.with_module(module.eval())(net.example)


@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_a_pruned_network_is_the_masked_one(name: str, everywhere: bool) -> None:
    net = network(name)
    found = pruned(net, everywhere=everywhere)
    left = left_of(net, found.removed)
    apart = difference(outputs(net, found.module), outputs(net, masked(net, left)))
    if name in NORMED and found.removed.channels:
        assert apart > 1e-4, "then it is no exception"
    else:
        assert apart < 1e-4


@pytest.mark.parametrize("name", ["vit", "bert"])
def test_without_some_heads_it_is_the_masked_one(name: str) -> None:
    net = network(name)
    heads = pruned(net).removed.heads
    assert all(len(gone) == 2 for _, gone in heads)
    assert len(heads) == 2
    removed = Removal(heads=heads)
    found = without(net.module, net.example, removed)
    left = left_of(net, removed)
    assert difference(outputs(net, found), outputs(net, masked(net, left))) < 1e-4


@pytest.mark.parametrize("name", ALL)
def test_the_same_is_taken_out_again_from_what_is_kept_of_it(name: str) -> None:
    net = network(name)
    found = pruned(net)
    again = Removal.from_json(json.loads(json.dumps(found.removed.to_json())))
    assert again == found.removed
    theirs = without(net.module, net.example, again).state_dict()
    ours = found.module.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("name", ALL)
def test_inputs_and_outputs_are_unchanged_for_every_batch(name: str) -> None:
    net = network(name)
    found = pruned(net)
    assert as_network(found.module, net.example).signature == net.signature
    for count in (1, 3):
        example = ALL[name].draw(count, torch.Generator().manual_seed(2))
        with torch.no_grad():
            ours, theirs = net.with_module(found.module)(example), net(example)
        assert difference(ours, ours) == 0
        assert {key: value.shape for key, value in ours.items()} == {
            key: value.shape for key, value in theirs.items()
        }


@pytest.mark.parametrize("name", ALL)
def test_parameters_are_as_many_as_predicted_and_fewer(name: str) -> None:
    net = network(name)
    found = pruned(net)
    left = left_of(net, found.removed)
    predicted = sum(int(left[key].sum()) for key, _ in net.module.named_parameters())
    count = net.with_module(found.module).parameter_count
    assert count == predicted
    assert (count < net.parameter_count) == (name not in WHOLE)


def layer_macs(net: Network, module: nn.Module) -> int:
    """What convolutions and linear layers multiply for one sample, from what flows through them."""
    total = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Linear):
            total += output[:1].numel() * layer.in_features
        elif isinstance(layer, _ConvNd):
            over = inputs[0] if isinstance(layer, _ConvTransposeNd) else output
            other = layer.out_channels if over is inputs[0] else layer.in_channels
            total += over[:1].numel() * other * prod(layer.kernel_size) // layer.groups

    hooks = [each.register_forward_hook(count) for each in module.modules()]
    outputs(net, module)
    for hook in hooks:
        hook.remove()
    return total


@pytest.mark.parametrize("name", [name for name in ALL if name not in UNPREDICTED])
def test_multiply_accumulates_are_as_many_as_predicted(name: str) -> None:
    net = network(name)
    found = pruned(net)
    for module in (net.module, found.module):
        assert count_macs(net.with_module(module)) == layer_macs(net, module)


@pytest.mark.parametrize("name", ["resnet", "mobilenet-v3", "vit", "unet"])
def test_channels_are_multiples_of_eight(name: str) -> None:
    net = network(name)
    found = pruned(net, 0.4, round_to=8)
    after = [narrow for layer, (_, narrow) in found.widths.items() if "qkv" not in layer]
    assert after
    assert all(width % 8 == 0 for width in after)


@pytest.mark.parametrize(
    ("name", "path"), [("vit", "blocks"), ("bert", "layers"), ("mixer", "blocks")]
)
def test_whole_blocks_go_and_the_rest_is_as_it_was(name: str, path: str) -> None:
    net = network(name)

    def parameters(module: nn.Module) -> float:
        return float(sum(each.numel() for each in module.parameters()))

    def loss_of(module: nn.Module) -> float:
        return difference(outputs(net, module), outputs(net, net.module))

    whole = parameters(net.module)
    found = drop_to(net.module, path, net.example, 0.7, parameters, loss_of, whole=whole)
    ((where, gone),) = found.pruned.removed.blocks
    assert (where, len(gone)) == (path, 1)
    kept = net.module.get_submodule(path)[1 - int(gone[0])]  # type: ignore[index]
    ours = found.pruned.module.get_submodule(f"{path}.0").state_dict()
    assert all(torch.equal(ours[key], value) for key, value in kept.state_dict().items())
    again = without(net.module, net.example, found.pruned.removed)
    assert difference(outputs(net, again), outputs(net, found.pruned.module)) == 0


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


def agrees(net: Network, name: str, format: str, scheme: str, out: Path) -> None:
    """The network's file in a format says what the network says, in its own runtime."""
    dice = torch.Generator().manual_seed(5)
    samples = [ALL[name].draw(1, dice) for _ in range(16)]
    single = as_network(net.module, samples[0])
    artifact = edgekd.export(single, format=format, scheme=scheme, calibration=samples, out=out)
    if format == "coreml":
        with pytest.raises(UnreachableError):
            edgekd.verify(artifact, single, samples)
        return
    found = edgekd.verify(artifact, single, samples, min_agreement=0.8)
    assert found.outcome is edgekd.Outcome.PASSED, found.detail


@pytest.mark.converter
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", ALL)
def test_a_pruned_network_is_exported_and_verified(name: str, format: str, tmp_path: Path) -> None:
    need_modules(*FORMATS[format].PACKAGES)
    net = network(name)
    smaller = as_network(pruned(net).module, net.example)
    if (name, format) in KNOWN_FAILURES:
        for each in (net, smaller):
            with pytest.raises(ConversionError):
                agrees(each, name, format, "fp32", tmp_path)
        return
    agrees(smaller, name, format, "fp32", tmp_path)


@pytest.mark.converter
@pytest.mark.parametrize("format", ["onnx", "openvino", "litert"])
@pytest.mark.parametrize("name", ["resnet", "mobilenet-v2", "tcn"])
def test_a_pruned_network_is_quantized_and_verified(name: str, format: str, tmp_path: Path) -> None:
    need_modules(*FORMATS[format].PACKAGES)
    net = network(name)
    agrees(as_network(pruned(net).module, net.example), name, format, "int8", tmp_path)


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
