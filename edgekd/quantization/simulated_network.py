"""Simulates in torch, with gradients, what a network's int8 file will compute."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from edgekd.artifacts.quantizer_rules import WEIGHTED, QuantizerRules, WeightCodes
from edgekd.network.network import Network, call
from edgekd.quantization.fake_quantize import (
    activation_grid,
    fake_activation,
    fake_weight,
    widened_grid,
)
from edgekd.quantization.fusion_patterns import ATTENTION, decompose_composites
from edgekd.quantization.quantizer_placement import operator, place_quantizers

CHUNK = 64
"""Calibration samples in one batch."""

REFRESH_EVERY = 8
"""Optimizer steps between two measurements of the ranges: 4 % of the time with 128 samples and
batches of that size."""

WEIGHT_PREFIX = "module."
"""Prefix of the names of a network's weights in its program."""


class Named(nn.Module):
    """A network's module in eval mode, with inputs in order and outputs by name."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.module = copy.deepcopy(network.module).eval().cpu()
        self.names = tuple(network.signature.input_names)

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        return call(self.module, dict(zip(self.names, inputs, strict=True)))


def program_of(network: Network) -> tuple[GraphModule, bool]:
    """The operators of `network` in eval mode as a graph, and whether it takes batches of any size.

    If torch.export takes the batch of the example for a constant, the graph has a batch of one.
    Weights have their names in the network's module, behind "module.".

    Raises:
        Exception: whatever torch.export raises for a network that it cannot export.
    """
    module, inputs = Named(network), list(network.example.items())
    dynamic = {(name, axis) for dim in network.dynamic for name, axis in dim.axes.items()}
    sizes = tuple(
        {a: torch.export.Dim.AUTO for a in range(value.ndim) if a == 0 or (name, a) in dynamic}
        for name, value in inputs
    )
    two = tuple(torch.cat([value[:1], value[:1]]) for _, value in inputs)
    program = _plain(torch.export.export(module, two, dynamic_shapes=(sizes,), strict=False))
    try:
        with torch.no_grad():
            program(*(torch.cat([value, value[:1]]) for value in two))
    except (RuntimeError, AssertionError):  # torch.export took the batch for a constant.
        one = tuple(value[:1] for _, value in inputs)
        return _plain(torch.export.export(module, one, strict=False)), False
    return program, True


def _plain(program: Any) -> GraphModule:
    if any(node.target in ATTENTION for node in program.graph.nodes):
        program = program.run_decompositions(ATTENTION)
    module: GraphModule = program.module(check_guards=False)
    return module


class Grid(nn.Module):
    """An activation quantizer and its range.

    While it observes, it widens its range by the values that pass; otherwise it rounds them.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self,
        widened: bool,
        fixed: tuple[float, float] | None = None,
        headroom: float = 0.0,
        channels: int | None = None,
    ) -> None:
        super().__init__()
        self.headroom, self.shape = headroom, () if channels is None else (channels,)
        low, high = fixed or (0.0, 0.0)
        self.register_buffer("low", torch.full(self.shape, low))
        self.register_buffer("high", torch.full(self.shape, high))
        self.widened, self.fixed, self.observing = widened, fixed is not None, False

    def forward(self, value: Tensor) -> Tensor:
        if self.observing:
            others = [axis for axis in range(value.ndim) if axis != 1 or not self.shape]
            low, high = value.amin(others), value.amax(others)
            if not self.fixed:
                self.low.copy_(torch.minimum(self.low, low))
                self.high.copy_(torch.maximum(self.high, high))
            return value
        grid = widened_grid if self.widened else activation_grid
        return fake_activation(value, *grid(*self.range))

    @property
    def range(self) -> tuple[Tensor, Tensor]:
        """The range of the grid, with headroom."""
        room = self.headroom * (self.high - self.low)
        # A range that is never negative stays so.
        return self.low - room * (self.low < 0), self.high + room

    def observe(self) -> None:
        """Starts to observe, from an empty range."""
        self.observing = True
        if not self.fixed:
            self.low.zero_()
            self.high.zero_()

    def round(self) -> None:
        """Starts to round."""
        self.observing = False


class WeightGrid(nn.Module):
    """A weight quantizer, with a grid per channel."""

    def __init__(self, axis: int, codes: WeightCodes) -> None:
        super().__init__()
        self.axis, self.codes, self.observing = axis, codes, False

    def forward(self, weight: Tensor) -> Tensor:
        return weight if self.observing else fake_weight(weight, self.axis, self.codes)

    def observe(self) -> None:
        """Stops to round."""
        self.observing = True

    def round(self) -> None:
        """Starts to round."""
        self.observing = False


class FakeQuantizedModule(nn.Module):
    """A network with fake quantizers where a format's quantizer inserts its own.

    It stays in eval mode, because training must see what the file computes. Its ranges are the true
    minima and maxima of the float network over the calibration samples, as the quantizer will
    measure them, at the last `refresh`.

    Args:
        network: a network with folded batch norms.
        calibration: samples, inputs by name, batch first.
    """

    steps: Tensor

    def __init__(
        self, network: Network, rules: QuantizerRules, calibration: Sequence[Mapping[str, Tensor]]
    ) -> None:
        super().__init__()
        self.program, self.any_batch = program_of(network)
        decompose_composites(self.program, rules.decomposed)
        _place(self.program, rules)
        names = network.signature.input_names
        columns = [
            torch.cat([sample[name] for sample in calibration]).split(CHUNK) for name in names
        ]
        self.calibration = list(zip(*columns, strict=True))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.refresh()

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        if self.any_batch:
            whole: dict[str, Tensor] = self.program(*inputs)
            return whole
        each = [self.program(*one) for one in zip(*(x.split(1) for x in inputs), strict=True)]
        return {name: torch.cat([one[name] for one in each]) for name in each[0]}

    def train(self, mode: bool = True) -> FakeQuantizedModule:  # noqa: ARG002  see the class
        return self

    @property
    def grids(self) -> list[Grid | WeightGrid]:
        """All quantizers."""
        return [each for each in self.modules() if isinstance(each, Grid | WeightGrid)]

    @torch.no_grad()
    def refresh(self) -> None:
        """Measures the ranges again with the present weights."""
        grids, device = self.grids, self.steps.device
        for grid in grids:
            grid.observe()
        for inputs in self.calibration:
            self(*(value.to(device) for value in inputs))
        for grid in grids:
            grid.round()

    def tick(self) -> None:
        """Counts an optimizer step, and measures the ranges again every `REFRESH_EVERY` steps."""
        self.steps += 1
        if int(self.steps) % REFRESH_EVERY == 0:
            self.refresh()

    def weights(self) -> dict[str, Tensor]:
        """The weights by their names in the network's module; a shared weight has one name."""
        return {
            name.removeprefix(WEIGHT_PREFIX): value.detach().cpu().clone()
            for name, value in self.program.state_dict().items()
            if name.startswith(WEIGHT_PREFIX)
        }


def _place(program: GraphModule, rules: QuantizerRules) -> None:
    """Inserts the quantizers of `rules` into `program`."""
    placement = place_quantizers(program.graph, rules)
    for number in sorted(set(placement.grids.values())):
        headroom = rules.headroom if number in placement.outputs else 0.0
        channels = placement.channels.get(number)
        grid = Grid(rules.widened, placement.fixed.get(number), headroom, channels)
        program.add_submodule(f"grid_{number}", grid)
    for node, number in placement.grids.items():
        _behind(node, f"grid_{number}", placement.readers)
    for number, (node, axis) in enumerate(placement.weights.items()):
        program.add_submodule(f"weight_grid_{number}", WeightGrid(axis, rules.codes))
        _behind(node, f"weight_grid_{number}", WEIGHTED)
    program.graph.lint()
    program.recompile()


def _behind(node: Node, target: str, readers: frozenset[str] | None) -> None:
    """Inserts the module `target` between `node` and its users, or those in `readers`."""
    users = [user for user in node.users if readers is None or operator(user) in readers]
    with node.graph.inserting_after(node):
        put = node.graph.call_module(target, (node,))
    for user in users:
        user.replace_input_with(node, put)
