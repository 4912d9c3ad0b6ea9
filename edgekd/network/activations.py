"""Activations of a network: its outputs and inner layers by name, and projectors of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from edgekd.errors import Fault, RecipeError, listed, nearest
from edgekd.network.network import call


def watch(
    module: nn.Module, layers: Sequence[str], captured: dict[str, Tensor]
) -> list[RemovableHandle]:
    """Registers hooks that store the outputs of `layers` in `captured` at each call of `module`.

    If a layer returns several tensors, the first is stored.
    """

    def store(name: str) -> Any:
        def hook(_layer: nn.Module, _inputs: Any, output: Any) -> None:
            captured[name] = _first_tensor(output)

        return hook

    return [module.get_submodule(name).register_forward_hook(store(name)) for name in layers]


def _first_tensor(output: Any) -> Tensor:
    while not isinstance(output, Tensor):
        values = output.values() if isinstance(output, Mapping) else output
        output = next(value for value in values if value is not None)
    return output


def layers_of(module: nn.Module) -> list[str]:
    """The module paths of all layers of `module`."""
    return [name for name, _ in module.named_modules() if name]


def observe(
    module: nn.Module, inputs: Mapping[str, Tensor], taps: Sequence[str], *, at: str = "layer"
) -> dict[str, Tensor]:
    """The tensors that `taps` name, each an output of `module` or the output of a layer.

    Raises:
        RecipeError: there is no such output or layer, or the layer was not called.
    """
    known = set(layers_of(module))
    layers = [name for name in taps if name in known]
    captured: dict[str, Tensor] = {}
    handles = watch(module, layers, captured)
    try:
        outputs = call(module, inputs)
    finally:
        for handle in handles:
            handle.remove()
    for name in taps:
        if name not in outputs and name not in captured:
            fault = _missing_tap(module, name, list(outputs), at, called=name not in layers)
            raise RecipeError(fault)
    return {name: outputs[name] if name in outputs else captured[name] for name in taps}


def _missing_tap(
    module: nn.Module, name: str, outputs: list[str], at: str, *, called: bool
) -> Fault:
    known = [*outputs, *layers_of(module)]
    close = nearest(name, known)
    return Fault(
        what=f"The network has no output or layer {name!r}."
        if called
        else f"The layer {name!r} is not called in a forward pass.",
        at=at,
        got=repr(name),
        expected=listed(known[:24]) + (f" and {len(known) - 24} more" if len(known) > 24 else ""),
        fix=f"did you mean {close!r}?" if close and called else "name one of these",
    )


class Observed(nn.Module):
    """A student in training that also returns the tensors that losses compare, projected.

    The projectors are trained with the student and dropped with this module.

    Args:
        taps: the output or layer of each returned tensor, by its name.
        projectors: the modules that project these tensors, by the same names.
    """

    def __init__(
        self,
        student: nn.Module,
        input_names: Sequence[str],
        taps: Mapping[str, str],
        projectors: Mapping[str, nn.Module],
    ) -> None:
        super().__init__()
        self.student = student
        self.input_names = tuple(input_names)
        self.taps = dict(taps)
        self.projectors = nn.ModuleList(projectors.values())
        self.projector_index = {name: index for index, name in enumerate(projectors)}
        self.captured: dict[str, Tensor] = {}
        known = set(layers_of(student))
        layers = [name for name in dict.fromkeys(taps.values()) if name in known]
        self.handles = watch(student, layers, self.captured)

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        named = dict(zip(self.input_names, inputs, strict=True))
        outputs = call(self.student, named)
        tensors = dict(outputs)
        for name, tap in self.taps.items():
            value = outputs[tap] if tap in outputs else self.captured[tap]
            index = self.projector_index.get(name)
            tensors[name] = value if index is None else self.projectors[index](value)
        return tensors

    def release(self) -> None:
        """Removes the hooks from the student."""
        for handle in self.handles:
            handle.remove()
        self.captured.clear()


def projector(kind: str, student: Tensor, teacher: Tensor) -> nn.Module:
    """A module that projects a student's feature to the shape of its teacher's.

    Args:
        kind: "linear" (a 1x1 convolution, or a linear layer over features), "regressor" (FitNets:
            with batch norm and ReLU) or "generative" (MGD: masked, then restored by two
            convolutions).
        student, teacher: examples, batch first: batch x features, batch x tokens x features, or
            batch x channels x space. Maps of another size are average-pooled to the teacher's.
            Three-dimensional features with an equal axis 1 are batch x tokens x features.

    Raises:
        ValueError: the two have different numbers of axes.

    Source: Romero et al. 2015, arXiv:1412.6550, section 2.2; Yang et al. 2022, arXiv:2205.01529,
        section 3.
    """
    if student.ndim != teacher.ndim or student.ndim < 2:
        raise ValueError(
            f"a projector needs features with the same number of axes, got {tuple(student.shape)} "
            f"and {tuple(teacher.shape)}"
        )
    tokens = student.ndim == 3 and student.shape[1] == teacher.shape[1]
    ins, outs = (x.shape[-1 if tokens else 1] for x in (student, teacher))
    if student.ndim == 2 or tokens:
        parts: list[nn.Module] = [nn.Linear(ins, outs)]
        if kind == "regressor":
            parts += [nn.LayerNorm(outs) if tokens else nn.BatchNorm1d(outs), nn.ReLU()]
        if kind == "generative":
            parts += [Mask(), nn.Linear(outs, outs), nn.ReLU(), nn.Linear(outs, outs)]
        return nn.Sequential(*parts)
    convolution, norm = _LAYERS[student.ndim - 2]
    parts = [Resize(tuple(teacher.shape[2:])), convolution(ins, outs, 1)]
    if kind == "regressor":
        parts += [norm(outs), nn.ReLU()]
    if kind == "generative":
        parts += [
            Mask(),
            convolution(outs, outs, 3, padding=1),
            nn.ReLU(),
            convolution(outs, outs, 3, padding=1),
        ]
    return nn.Sequential(*parts)


_LAYERS: dict[int, tuple[Any, Any]] = {
    1: (nn.Conv1d, nn.BatchNorm1d),
    2: (nn.Conv2d, nn.BatchNorm2d),
    3: (nn.Conv3d, nn.BatchNorm3d),
}


class Resize(nn.Module):
    """Average-pools a map to the size of another; values of a smaller map are repeated."""

    def __init__(self, size: tuple[int, ...]) -> None:
        super().__init__()
        self.size = size

    def forward(self, features: Tensor) -> Tensor:
        if tuple(features.shape[2:]) == self.size:
            return features
        pool: Any = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}
        pooled: Tensor = pool[len(self.size)](features, self.size)
        return pooled


class Mask(nn.Module):
    """Zeroes a share of the channels of each sample, in training.

    Source: Yang et al. 2022, arXiv:2205.01529: MGD masks channels at a share of 0.15 for
        classification.
    """

    def __init__(self, share_frac: float = 0.15) -> None:
        super().__init__()
        self.share_frac = share_frac

    def forward(self, features: Tensor) -> Tensor:
        if not self.training:
            return features
        shape = features.shape[:2] + (1,) * (features.ndim - 2)
        if features.ndim == 2:
            shape = features.shape
        return features * (torch.rand(shape, device=features.device) >= self.share_frac)
