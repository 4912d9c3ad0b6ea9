"""What a selection of calibration samples looks at: features of the teacher, the student's loss."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from edgekd.data import Inputs, Samples
from edgekd.network.network import Network, call, renamed
from edgekd.tasks.evaluate import BATCH_SIZE

LAST = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers whose input is taken for a network's features, where one is the last that runs."""


def features_of(
    network: Network, samples: Samples
) -> tuple[Float[Tensor, "samples features"], str]:
    """The features of all `samples` in order, and what they are, in words."""
    module = network.module.cpu()
    mode = module.training
    module.eval()
    try:
        with torch.no_grad():
            named = {name: tensor[:1].cpu() for name, tensor in network.example.items()}
            last = _last_layer(module, named)
            if last is None:
                output = network.signature.output_names[0]
                found = [
                    call(module, renamed(samples.take(ids)[0], network))[output].flatten(1)
                    for ids in samples.batches(BATCH_SIZE)
                ]
                return torch.cat(found).float(), f"output {output}"
            path, layer = last
            found = [
                _input_of(layer, module, renamed(samples.take(ids)[0], network))
                for ids in samples.batches(BATCH_SIZE)
            ]
    finally:
        module.train(mode)
    return torch.cat(found).float(), f"the input of layer {path}"


def _last_layer(module: nn.Module, inputs: Inputs) -> tuple[str, nn.Module] | None:
    """The last layer with weights that a call runs, with its path."""
    ran: list[str] = []
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, LAST)}
    handles = [
        layer.register_forward_hook(lambda *_, name=name: ran.append(name))
        for name, layer in layers.items()
    ]
    try:
        call(module, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return (ran[-1], layers[ran[-1]]) if ran else None


def _input_of(layer: nn.Module, module: nn.Module, inputs: Inputs) -> Tensor:
    """What `layer` takes in a call of `module`, its mean over all axes but batch and features."""
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        call(module, inputs)
    finally:
        handle.remove()
    found = seen[-1].float()
    if isinstance(layer, nn.Linear):
        return found.reshape(len(found), -1, found.shape[-1]).mean(1)
    return found.flatten(2).mean(2)
