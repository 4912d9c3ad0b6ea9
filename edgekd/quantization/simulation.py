"""A network as its int8 file will compute it, in torch, with gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from edgekd.network import Network, call
from edgekd.quantization.fake import (
    WeightCodes,
    activation_grid,
    fake_activation,
    fake_weight,
    widened_grid,
)
from edgekd.quantization.places import Rules, operator, places

CHUNK = 64
"""Calibration samples at once."""


class Named(nn.Module):
    """A network's module that takes its inputs in order and returns named outputs."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.module = copy.deepcopy(network.module).eval().cpu()
        self.names = tuple(network.signature.input_names)

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        return call(self.module, dict(zip(self.names, inputs, strict=True)))


def program_of(network: Network) -> tuple[GraphModule, bool]:
    """`network` as a graph of torch's operators in eval mode, and whether it takes any batch.

    One that took the batch of its example for a constant is of a batch of one. Weights are named
    "module." and their name in the network's module.
    """
    module = Named(network)
    free = {(name, axis) for each in network.free for name, axis in each.axes.items()}
    example = tuple(torch.cat([tensor, tensor]) for tensor in network.example.values())
    auto = torch.export.Dim.AUTO
    sizes = tuple(
        {
            axis: auto
            for axis in range(tensor.ndim)
            if axis == 0 or (name, axis) in free
        }
        for name, tensor in network.example.items()
    )
    program = _plain(torch.export.export(module, example, dynamic_shapes=(sizes,), strict=False))
    try:
        with torch.no_grad():
            program(*(torch.cat([each, each[:1]]) for each in example))
    except (RuntimeError, AssertionError):  # What torch.export took for a constant, it insists on.
        single = tuple(tensor[:1] for tensor in network.example.values())
        return _plain(torch.export.export(module, single, strict=False)), False
    return program, True


def _plain(program: Any) -> GraphModule:
    from edgekd.quantization.spelling import ATTENTION

    if any(node.target in ATTENTION for node in program.graph.nodes):
        program = program.run_decompositions(ATTENTION)
    module: GraphModule = program.module(check_guards=False)
    return module


class Grid(nn.Module):
    """A place where activations are rounded: their range, and what is done there now.

    While `observing` it widens its range by what passes; while `rounding` it puts that on the grid.
    """

    low: Tensor
    high: Tensor

    def __init__(self, widened: bool, fixed: tuple[float, float] | None) -> None:
        super().__init__()
        low, high = fixed or (0.0, 0.0)
        self.register_buffer("low", torch.tensor(low))
        self.register_buffer("high", torch.tensor(high))
        self.grid: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
        self.grid = widened_grid if widened else activation_grid
        self.fixed = fixed is not None
        self.rounding, self.observing = True, False

    def forward(self, value: Tensor) -> Tensor:
        if self.observing and not self.fixed:
            low, high = torch.aminmax(value.detach())
            self.low.copy_(torch.minimum(self.low, low))
            self.high.copy_(torch.maximum(self.high, high))
        if not self.rounding:
            return value
        return fake_activation(value, *self.grid(self.low, self.high))

    def forget(self) -> None:
        """Begins anew with a range of zero alone."""
        if not self.fixed:
            self.low.zero_()
            self.high.zero_()


class WeightGrid(nn.Module):
    """A place where a weight is rounded by channel."""

    def __init__(self, axis: int, codes: WeightCodes) -> None:
        super().__init__()
        self.axis, self.codes, self.rounding = axis, codes, True

    def forward(self, weight: Tensor) -> Tensor:
        return fake_weight(weight, self.axis, self.codes) if self.rounding else weight


class Simulated(nn.Module):
    """A network whose weights and activations are rounded where a format's quantizer rounds them.

    It stays in eval mode: what its file will compute is what is trained. Its ranges are the true
    minima and maxima over the calibration samples of the network in float, as the quantizer will
    measure them, at the last `refresh`.

    Args:
        network: with its batch norms folded.
        calibration: inputs by name, batch first.
        refresh_every: steps of an optimizer, told by `tick`, between two refreshes.
    """

    steps: Tensor

    def __init__(
        self,
        network: Network,
        rules: Rules,
        calibration: Sequence[Mapping[str, Tensor]],
        refresh_every: int = 8,
    ) -> None:
        from edgekd.quantization.spelling import spell_out

        super().__init__()
        self.program, self.batched = program_of(network)
        spell_out(self.program, rules.spelled)
        found = places(self.program.graph, rules)
        grids = [Grid(rules.widened, found.fixed.get(n)) for n in range(1 + max(found.grids.values(), default=-1))]
        for number, grid in enumerate(grids):
            self.program.add_submodule(f"grid_{number}", grid)
        for node, number in found.grids.items():
            _behind(node, f"grid_{number}")
        for number, (node, axis) in enumerate(found.weights.items()):
            grid = WeightGrid(axis, rules.codes)
            self.program.add_submodule(f"weight_grid_{number}", grid)
            _behind(node, f"weight_grid_{number}", WEIGHTED_USERS)
        self.program.graph.lint()
        self.program.recompile()
        names = network.signature.input_names
        whole = {name: torch.cat([sample[name] for sample in calibration]) for name in names}
        self.calibration = [tuple(each) for each in zip(*(whole[n].split(CHUNK) for n in names), strict=True)]
        self.refresh_every = refresh_every
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.refresh()

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        if self.batched:
            return self.program(*inputs)
        each = [self.program(*(tensor[i : i + 1] for tensor in inputs)) for i in range(len(inputs[0]))]
        return {name: torch.cat([one[name] for one in each]) for name in each[0]}

    def train(self, mode: bool = True) -> Simulated:  # noqa: ARG002
        self.training = False
        return self

    @property
    def grid_count(self) -> int:
        """How many grids of activations there are."""
        return sum(isinstance(each, Grid) for each in self.modules())

    @torch.no_grad()
    def refresh(self) -> None:
        """Measures the ranges anew, on the weights as they are now."""
        device = self.steps.device
        grids = [each for each in self.modules() if isinstance(each, Grid | WeightGrid)]
        for grid in grids:
            grid.rounding = False
            if isinstance(grid, Grid):
                grid.forget()
                grid.observing = True
        for inputs in self.calibration:
            self(*(tensor.to(device) for tensor in inputs))
        for grid in grids:
            grid.rounding, grid.observing = True, False

    def tick(self) -> None:
        """Counts a step, and refreshes the ranges when it is time."""
        self.steps += 1
        if int(self.steps) % self.refresh_every == 0:
            self.refresh()

    def tuned(self) -> dict[str, Tensor]:
        """The weights by their names in the network's module."""
        return {
            name.removeprefix("module."): value.detach().clone()
            for name, value in self.program.state_dict().items()
            if name.startswith("module.")
        }


WEIGHTED_USERS = frozenset({"conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear"})


def _behind(node: Node, target: str, only: frozenset[str] | None = None) -> None:
    """Puts the module `target` behind `node`, before all its users or those of some operators."""
    users = [user for user in node.users if only is None or operator(user) in only]
    with node.graph.inserting_after(node):
        put = node.graph.call_module(target, (node,))
    put.meta = dict(node.meta)
    for user in users:
        user.replace_input_with(node, put)
