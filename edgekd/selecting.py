"""What a selection of calibration samples looks at: features of the teacher, the student's loss."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from edgekd.black_box import OutputsTable
from edgekd.data import Inputs, Samples
from edgekd.evaluate import BATCH_SIZE, outputs_of
from edgekd.network import Network, call
from edgekd.teachers import FILE_BATCH, Teacher, outputs_on, renamed, teacher_key
from edgekd.trained import network_key
from edgekd.work import Work

LAST = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers whose input is taken for a network's features, where one is the last that runs."""


def looked_at_key(work: Work, selection: str) -> Any:
    """What the selection looks at, as part of the key of what is selected."""
    if selection == "k-centre":
        return teacher_key(_asked(work)[0])
    return network_key(work.student) if selection == "worst-loss" else None


def looked_at(work: Work, source: str, selection: str) -> tuple[Tensor | None, Tensor | None, str]:
    """The features or the losses of the split `source`, and what they are, in words.

    Features are the input of the last layer of the teacher that has weights; where that cannot be
    told (a file, a table, an exported program), the teacher's output.
    """
    samples = work.samples(source)
    if selection == "k-centre":
        teacher, whose = _asked(work)
        if isinstance(teacher, OutputsTable):
            return teacher.rows(source).flatten(1), None, f"the table {teacher.reference}"
        if isinstance(teacher, Network):
            features, what = features_of(teacher, samples)
            return features, None, f"{what} of the {whose}"
        found = [outputs_on(teacher, samples.take(ids)[0]) for ids in samples.batches(FILE_BATCH)]
        return torch.cat(found).flatten(1), None, f"the output of {teacher.reference}"
    if selection == "worst-loss":
        output = work.student.signature.output_names[0]
        outputs, labels = outputs_of(work.student.module, samples)[output], samples.labels()
        losses = [
            work.task.hard_loss(outputs[i : i + 1], labels[i : i + 1]) for i in range(len(labels))
        ]
        return None, torch.stack(losses), "the loss of the student against the labels"
    return None, None, ""


def _asked(work: Work) -> tuple[Teacher, str]:
    """Over whose features samples are spread: the teacher's, unless the data it takes were folded
    into the student."""
    if work.teacher is None or work.recipe.export.inputs:
        return work.student, "student"
    return work.teacher, "teacher"


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
