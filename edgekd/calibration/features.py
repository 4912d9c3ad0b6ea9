"""The features of samples, by which a calibration set is selected."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from edgekd.data import Inputs, Samples
from edgekd.network.network import Network, call, renamed
from edgekd.tasks.evaluate import BATCH_SIZE

LAST = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layer types whose input can be the features of a network."""


def features_of(
    network: Network, samples: Samples
) -> tuple[Float[Tensor, "samples features"], str]:
    """The features of all samples in order, and a description of them.

    They are the input of the last of these layers that runs, or else the output of the network.
    """
    module = network.module.cpu()
    mode = module.training
    module.eval()
    try:
        with torch.no_grad():
            named = {name: tensor[:1].cpu() for name, tensor in network.example.items()}
            last = _last_layer(module, named)
            if last is None:
                output = network.signature.output_names[0]
                batches = [
                    call(module, renamed(samples.take(ids)[0], network))[output].flatten(1)
                    for ids in samples.batches(BATCH_SIZE)
                ]
                return torch.cat(batches).float(), f"output {output}"
            path, layer = last
            batches = [
                _input_of(layer, module, renamed(samples.take(ids)[0], network))
                for ids in samples.batches(BATCH_SIZE)
            ]
    finally:
        module.train(mode)
    return torch.cat(batches).float(), f"the input of layer {path}"


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
    """The input of `layer` in a call of `module`, averaged over all but batch and features."""
    captured: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, inputs: captured.append(inputs[0]))
    try:
        call(module, inputs)
    finally:
        handle.remove()
    features = captured[-1].float()
    if isinstance(layer, nn.Linear):
        return features.reshape(len(features), -1, features.shape[-1]).mean(1)
    return features.flatten(2).mean(2)
