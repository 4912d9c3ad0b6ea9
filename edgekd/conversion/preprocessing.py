"""Embeds preprocessing and softmax into a network: a raw image in, probabilities out.

The file then does what an app would do before the model, and cannot differ from training.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from edgekd.artifacts.signature import Signature
from edgekd.data import Data, Dataset, Inputs, is_plain
from edgekd.errors import Fault, RecipeError, listed
from edgekd.network.network import Network, as_network, call
from edgekd.network.preprocessing import NHWC
from edgekd.recipe.preprocessing import Head, Raw


class Folded(nn.Module):
    """A network with its preprocessing in front and its softmax behind."""

    def __init__(self, network: Network, raw: Mapping[str, Raw], outputs: Head) -> None:
        super().__init__()
        self.module = network.module
        self.raw = dict(raw)
        self.softmax = outputs == "probabilities"
        self.names = tuple(network.signature.input_names)
        for number, entry in enumerate(raw.values()):
            mean, std = (torch.tensor(values).double() for values in (entry.mean, entry.std))
            # At run time it is one multiplication and one subtraction.
            self.register_buffer(f"factor_{number}", (entry.scale / std).float())
            self.register_buffer(f"offset_{number}", (mean / std).float())

    def forward(self, *tensors: Tensor) -> dict[str, Tensor]:
        inputs = dict(zip(self.names, tensors, strict=True))
        for number, (name, entry) in enumerate(self.raw.items()):
            factor, offset = getattr(self, f"factor_{number}"), getattr(self, f"offset_{number}")
            value = inputs[name].to(torch.float32)
            if entry.layout == "nhwc":
                value = value.permute(0, 3, 1, 2)
            inputs[name] = value * _by_channel(factor, value) - _by_channel(offset, value)
        outputs = call(self.module, inputs)
        first = next(iter(outputs))
        if self.softmax:
            outputs[first] = outputs[first].softmax(-1)
        return outputs


def _by_channel(values: Tensor, like: Tensor) -> Tensor:
    if values.numel() == 1:
        return values.reshape(())
    return values.reshape(-1, *[1] * (like.ndim - 2))


def embed_preprocessing(
    network: Network, inputs: Mapping[str, Raw], outputs: Head = "logits"
) -> Network:
    """`network` with the preprocessing of `inputs` embedded, and softmax over the last axis of its
    first output if `outputs` is "probabilities".

    Args:
        inputs: the raw form of each input to embed, by name.
        outputs: "logits" or "probabilities".

    Returns:
        The network, whose inputs are raw.

    Raises:
        RecipeError: there is no such input, it is not an image, or it has other channels.
    """
    if network.dynamic:
        got = f"dynamic dimensions {listed(dim.name for dim in network.dynamic)}"
        expected = "a network with static shapes"
        raise RecipeError(
            _fault(next(iter(inputs), "outputs"), got, expected, "remove one of the two")
        )
    shapes = {spec.name: spec.shape for spec in network.signature.inputs}
    for name, raw in inputs.items():
        if name not in shapes:
            raise RecipeError(_fault(name, repr(name), listed(shapes), "name one of the inputs"))
        shape = shapes[name]
        if raw.layout != "same" and len(shape) != 4:
            expected = "an image: batch, channels, height, width"
            raise RecipeError(_fault(name, str(shape), expected, 'write layout = "same"'))
        counts = {len(raw.mean), len(raw.std)} - {1}
        if counts - {shape[1] if len(shape) > 1 else 1}:
            got = f"{len(raw.mean)} of mean, {len(raw.std)} of std"
            expected = f"one for all, or one for each of the {shape[1:2]} channels"
            raise RecipeError(_fault(name, got, expected, "give one for each channel"))
    example = unprepared(network.example, inputs)
    module = Folded(network, inputs, outputs).eval()
    tables = {name: raw.model_dump() for name, raw in inputs.items()}
    lineage = {**network.lineage, "folded": {"inputs": tables, "outputs": outputs}}
    embedded = as_network(module, example, lineage)
    images = [name for name, raw in inputs.items() if raw.layout == "nhwc"]
    first, *others = embedded.signature.outputs
    signature = Signature(
        tuple(
            replace(spec, layout=NHWC) if spec.name in images else spec
            for spec in embedded.signature.inputs
        ),
        (replace(first, meaning=outputs), *others),
    )
    return replace(embedded, signature=signature)


def unprepared(inputs: Mapping[str, Tensor], raw: Mapping[str, Raw]) -> Inputs:
    """Preprocessed inputs, batch first, turned back into raw ones; integer types are rounded.

    Raises:
        RecipeError: a value lies outside the range of its type, so mean, std and scale are not
            those that the data was preprocessed with.
    """
    result = dict(inputs)
    for name, entry in raw.items():
        value = result[name].double()
        mean, std = (
            torch.tensor(values, dtype=torch.float64) for values in (entry.mean, entry.std)
        )
        value = (value * _by_channel(std, value) + _by_channel(mean, value)) / entry.scale
        if entry.layout == "nhwc":
            value = value.permute(0, 2, 3, 1)
        if entry.dtype == "uint8":
            low, high = float(value.min()), float(value.max())
            if low < -1 or high > 256:
                got = f"values from {low:.1f} to {high:.1f} before it"
                expected = "0 to 255: the mean, std and scale that the data was prepared with"
                raise RecipeError(_fault(name, got, expected, "copy them from data.load"))
            value = value.round().clamp(0, 255).to(torch.uint8)
        result[name] = value.to(getattr(torch, entry.dtype)).contiguous()
    return result


def _fault(name: str, got: str, expected: str, fix: str) -> Fault:
    return Fault(
        what="The preprocessing cannot be embedded into the network.",
        at=f"export.inputs.{name}",
        got=got,
        expected=expected,
        fix=fix,
    )


class Unprepared:
    """A dataset whose inputs are raw again."""

    def __init__(
        self, dataset: Dataset, names: tuple[str, ...], raw: Mapping[str, Raw], labelled: bool
    ) -> None:
        self.dataset, self.names, self.raw, self.labelled = dataset, names, dict(raw), labelled

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        item = self.dataset[index]
        first = item[0] if isinstance(item, list | tuple) else item
        named = dict(first) if isinstance(first, Mapping) else {self.names[0]: first}
        batch = {name: torch.as_tensor(value)[None] for name, value in named.items()}
        raw = {name: value[0] for name, value in unprepared(batch, self.raw).items()}
        return (raw, item[1]) if self.labelled else raw


def unprepared_data(data: Data, names: tuple[str, ...], raw: Mapping[str, Raw]) -> Data:
    """`data` with raw inputs, without augmentation."""

    def split(dataset: Dataset, labelled: bool = True) -> Dataset:
        if is_plain(dataset) and len(names) == 1:
            columns = dataset.tensors
            first = unprepared({names[0]: columns[0]}, raw)[names[0]]
            return TensorDataset(first, *columns[1:])
        return Unprepared(dataset, names, raw, labelled)

    return Data(
        train=split(data.train),
        validation=split(data.validation),
        test=split(data.test),
        unlabeled=None if data.unlabeled is None else split(data.unlabeled, labelled=False),
        slices=data.slices,
    )


def logits_of(network: Network) -> Network:
    """`network` without an embedded softmax: distillation takes logits."""
    if not isinstance(network.module, Folded) or not network.module.softmax:
        return network
    module = copy.deepcopy(network.module)
    module.softmax = False
    return network.with_module(module)
