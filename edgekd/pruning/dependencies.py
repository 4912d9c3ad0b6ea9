"""Traces the dependencies of a layer's channels, and finds the layers that must keep theirs.

Torch-Pruning traces the dependencies. To find those it traces wrongly (some splits, shuffles and
recurrent layers), each group of channels is removed alone, on trial: the network must compute the
same as one with these channels set to zero.

Source: Fang et al. 2023, arXiv:2301.12900; github.com/VainF/Torch-Pruning.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from edgekd.errors import Fault, RecipeError, nearest
from edgekd.network.network import call
from edgekd.pruning.heads import Heads, heads_of, masked_heads, remove_heads
from edgekd.pruning.importance import IMPORTANCES
from edgekd.system.packages import need

TOLERANCE = 1e-4
"""The largest relative difference between a pruned and a masked network: sums differ in order."""

TRACING = (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError,
           ArithmeticError, AssertionError, NotImplementedError)  # fmt: skip
"""The errors of tracing, and of a network that was pruned wrongly."""


MAX_TRACED = 2**22
"""The largest number of channels over all layers of a group. Channels that are split and shuffled
several times would otherwise be traced in circles until the memory is full."""


@dataclass(frozen=True)
class Untouched:
    """A layer that keeps its channels, and the reason."""

    layer: str
    reason: str


OUTPUT = "its channels are those of an output"
HEADS = "its heads are removed as a whole"


@dataclass(frozen=True)
class Group:
    """Channels of several layers that must be removed together.

    Attributes:
        root: the layer that produces them.
        whole: Torch-Pruning's group of all of them.
        parts: the number of parts that must stay equally wide: the groups of convolutions and
            normalizations, and the heads of attention.
    """

    root: str
    whole: Any
    parts: int

    @property
    def width(self) -> int:
        """The number of channels of one part."""
        return len(self.whole[0].idxs) // self.parts

    def kept(self, remove_frac: float, round_to: int = 1) -> int:
        """The channels that a part keeps without this share, in multiples of `round_to`."""
        step = math.lcm(round_to, self.parts) // self.parts
        if remove_frac <= 0 or step >= self.width:
            return self.width
        return min(self.width, max(step, round(self.width * (1 - remove_frac) / step) * step))

    def least(self, scores: Tensor, kept: int) -> list[int]:
        """The channels with the lowest scores, which are removed if each part keeps `kept`."""
        order = self.by_part(scores).argsort(stable=True)[: self.width - kept].tolist()
        return sorted(part * self.width + index for part in range(self.parts) for index in order)

    def by_part(self, scores: Tensor) -> Tensor:
        """The mean score over the parts, which lose the same channels."""
        return scores.detach().cpu().view(self.parts, -1).mean(0)


def groups_of(module: nn.Module, graph: Any, stay: Sequence[str]) -> list[Group]:
    """The groups of channels of `module` that may be removed, without the layers in `stay`."""
    layers = dict(module.named_modules())
    names = {layer: name for name, layer in layers.items()}
    found = []
    for whole in graph.get_all_groups([layers[name] for name in stay]):
        parts = _parts(graph, whole)
        if len(whole[0].idxs) % parts == 0:
            found.append(Group(names[whole[0].dep.target.module], whole, parts))
    return found


def _parts(graph: Any, whole: Any) -> int:
    counts = [1]
    for dep, _ in whole:
        layer = dep.target.module
        if isinstance(layer, nn.MultiheadAttention):
            counts.append(layer.num_heads)
        depthwise = isinstance(layer, _ConvNd) and layer.groups == layer.out_channels
        if isinstance(layer, _ConvNd | nn.GroupNorm) and not depthwise:
            pruner = graph.get_pruner_of_module(layer)
            out = graph.is_out_channel_pruning_fn(dep.handler)
            counts.append(
                (pruner.get_out_channel_groups if out else pruner.get_in_channel_groups)(layer)
            )
    return max(counts)


def without_channels(graph: Any, group: Group, channels: Sequence[int]) -> Any:
    """Torch-Pruning's group of only these channels of `group`; its `prune()` removes them."""
    root = group.whole[0].dep
    return graph.get_pruning_group(root.target.module, root.handler, list(channels))


def untouchable(
    module: nn.Module, example: Mapping[str, Tensor], ignore: Sequence[str] = ()
) -> list[Untouched]:
    """The layers of `module` that must keep their channels, each with the reason.

    Raises:
        RecipeError: a path in `ignore` does not exist, or the network cannot be traced.
    """
    module = copy.deepcopy(module).eval().cpu()
    names = {layer: name for name, layer in module.named_modules()}
    found = {name: "asked for" for path in ignore for name in below(module, path)}
    with quiet(), followed(module):
        graph = graph_of(module, example)
        for layer in output_layers(module, example):
            found.setdefault(names[layer], OUTPUT)
        for layer, name in names.items():
            if isinstance(layer, nn.RNNBase):
                found.setdefault(name, "a recurrent layer, whose channels cannot be traced")
        for heads in heads_of(module, graph):
            why = _heads_refusal(module, example, heads) or HEADS
            for name in heads.projections:
                found.setdefault(name, why)
        found.update(_untraceable(module, graph, found))
        roots = [group.root for group in groups_of(module, graph, list(found))]
    for root in roots:
        # Both halves are tried: an error may show only for some channels.
        for sign in (1.0, -1.0):
            reason = _group_refusal(module, example, root, list(found), sign)
            if reason is not None:
                found[root] = reason
                break
    return [Untouched(name, reason) for name, reason in found.items()]


def output_layers(module: nn.Module, example: Mapping[str, Tensor]) -> list[nn.Module]:
    """The layers whose channels are the channels of an output of `module`."""
    ends = [node for node in graph_of(module, example).module2node.values() if not node.outputs]
    found: list[nn.Module] = []
    seen: set[int] = set()
    while ends:
        node = ends.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node.module, nn.Linear | _ConvNd | nn.RNNBase):
            found.append(node.module)
        else:
            ends.extend(node.inputs)
    return found


def below(module: nn.Module, path: str) -> list[str]:
    """The paths of the layer at `path` and of all layers below it.

    Raises:
        RecipeError: there is no such layer.
    """
    known = dict(module.named_modules())
    if path not in known or not path:
        close = nearest(path, list(known))
        raise RecipeError(
            Fault(
                what=f"The network has no layer {path!r}.",
                at="prune.ignore",
                got=repr(path),
                expected="the module path of a layer",
                fix=f"did you mean {close!r}?" if close else "name a layer of named_modules()",
            )
        )
    return [name for name in known if name == path or name.startswith(f"{path}.")]


def graph_of(module: nn.Module, example: Mapping[str, Tensor]) -> Any:
    """Torch-Pruning's dependency graph of `module`."""
    pruning = need("torch_pruning", extra="prune")
    return pruning.DependencyGraph().build_dependency(
        module, example_inputs=dict(example), forward_fn=call
    )


def _untraceable(module: nn.Module, graph: Any, stay: Mapping[str, str]) -> dict[str, str]:
    """The layers whose dependencies Torch-Pruning cannot trace, with the reasons."""
    found = {}
    for name, width in widths(module).items():
        layer = module.get_submodule(name)
        if name in stay or layer not in graph.module2node:
            continue
        remove = graph.get_pruner_of_module(layer).prune_out_channels
        try:
            graph.get_pruning_group(layer, remove, list(range(width)))
        except TRACING as error:
            found[name] = f"what depends on them cannot be traced: {type(error).__name__}: {error}"
    return found


def _heads_refusal(module: nn.Module, example: Mapping[str, Tensor], heads: Heads) -> str | None:
    """The reason why half of the heads cannot be removed, or None."""
    numbers = list(range(heads.count // 2))
    pruned, masked = copy.deepcopy(module), masked_heads(module, heads, numbers)
    try:
        remove_heads(pruned, heads, numbers)
        with torch.no_grad():
            return _difference(call(pruned, example), call(masked, example), exact=True)
    except TRACING as error:
        return f"its module does not run with fewer heads: {type(error).__name__}: {error}"


def _group_refusal(
    module: nn.Module, example: Mapping[str, Tensor], root: str, stay: Sequence[str], sign: float
) -> str | None:
    """The reason why half of the channels of the group of `root` cannot be removed, or None."""
    magnitude = IMPORTANCES["l2"](need("torch_pruning", extra="prune"))
    pruned, masked = copy.deepcopy(module), copy.deepcopy(module)
    with quiet():
        try:
            graph = graph_of(pruned, example)
            names = {layer: name for name, layer in pruned.named_modules()}
            groups = groups_of(pruned, graph, stay)
            group = next(group for group in groups if group.root == root)
            magnitude(group.whole)  # Raises if the group's channels are not those of its layers.
            scores = sign * torch.arange(len(group.whole[0].idxs), dtype=torch.float32)
            channels = group.least(scores, max(1, group.width // 2))
            some = without_channels(graph, group, channels)
            if not channels or not graph.check_pruning_group(some):
                return "half of them cannot be removed"
            exact = True
            for dep, indices in some:
                exact &= _mask(masked, names.get(dep.target.module), dep, indices)
            some.prune()
            with torch.no_grad():
                return _difference(call(pruned, example), call(masked, example), exact=exact)
        except TRACING as error:
            return f"what depends on them cannot be traced: {type(error).__name__}: {error}"


def _difference(
    pruned: Mapping[str, Tensor], masked: Mapping[str, Tensor], *, exact: bool
) -> str | None:
    """How the outputs of a pruned network differ from those of the masked one, or None."""
    for name, output in pruned.items():
        expected = masked[name]
        if output.shape != expected.shape:
            return f"the output {name!r} would be {tuple(output.shape)}"
        if exact and not _close(output, expected):
            return "removing them gives other outputs than setting them to zero"
    return None


def _close(output: Tensor, expected: Tensor) -> bool:
    if not output.is_floating_point():
        return True
    # Relative to how much the values vary, so that a large constant hides no difference; plus the
    # rounding error of adding that constant.
    spread = float(expected.std(correction=0))
    rounding = float(expected.abs().max()) * 10 * torch.finfo(expected.dtype).eps
    return float((output - expected).abs().max()) <= TOLERANCE * spread + rounding


def _mask(module: nn.Module, name: str | None, dep: Any, indices: Sequence[Any]) -> bool:
    """Zeroes the channels that `dep` removes; whether that is equivalent to removing them."""
    if name is None:
        return not isinstance(dep.target.module, nn.Parameter)
    layer = module.get_submodule(name)
    ids = [int(getattr(index, "idx", index)) for index in indices]
    out = "out_channels" in dep.handler.__name__
    with torch.no_grad():
        if isinstance(layer, _ConvNd | nn.Linear):
            grouped = isinstance(layer, _ConvNd) and layer.groups > 1
            rows = out != isinstance(layer, _ConvTransposeNd)
            if grouped and not out:
                return True
            (layer.weight if rows or grouped else layer.weight.transpose(0, 1))[ids] = 0.0
            if out and layer.bias is not None:
                layer.bias[ids] = 0.0
            return True
        if isinstance(layer, _NormBase) and not isinstance(layer, nn.LayerNorm | nn.GroupNorm):
            if layer.weight is not None:
                layer.weight[ids] = 0.0
                layer.bias[ids] = 0.0
            return True
        if isinstance(layer, nn.Embedding):
            layer.weight[:, ids] = 0.0
            return True
        if isinstance(layer, nn.RNNBase) and not out:
            for key, tensor in layer.named_parameters():
                if key.startswith("weight_ih_l0"):
                    tensor[:, ids] = 0.0
            return True
    # A layer without parameters has nothing to zero; a norm over the channels is not equivalent.
    return not list(layer.parameters())


def widths(module: nn.Module) -> dict[str, int]:
    """The number of output channels of each layer, by module path."""
    found: dict[str, int] = {}
    for name, layer in module.named_modules():
        if isinstance(layer, _ConvNd):
            found[name] = layer.out_channels
        elif isinstance(layer, nn.Linear):
            found[name] = layer.out_features
    return found


@contextmanager
def quiet() -> Iterator[None]:
    """Silences Torch-Pruning's warnings, since trials find the errors, and limits its tracing."""
    group = need("torch_pruning.dependency.group", extra="prune").Group
    add = group.add_dep

    def add_few(self: Any, dep: Any, idxs: Any) -> None:
        self.traced = getattr(self, "traced", 0) + len(idxs)
        if self.traced > MAX_TRACED:
            raise RuntimeError(f"more than {MAX_TRACED:,} channels seem to depend on them")
        add(self, dep, idxs)

    group.add_dep = add_few
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        group.add_dep = add


@contextmanager
def followed(module: nn.Module) -> Iterator[None]:
    """Reports a network that cannot be traced, and the module where tracing fails."""
    try:
        yield
    except TRACING as error:
        raise RecipeError(
            Fault(
                what="The dependencies of the network's channels cannot be traced.",
                at=_module_of(error, module),
                got=f"{type(error).__name__}: {error}",
                expected="a network that torch-pruning can trace: no data-dependent control flow",
                fix='name this part in prune.ignore, or set prune.method = "unstructured"',
            )
        ) from error


def _module_of(error: Exception, module: nn.Module) -> str:
    """The innermost module whose forward raised `error`."""
    known = {type(part): path for path, part in reversed(list(module.named_modules())) if path}
    name, frame = type(module).__name__, error.__traceback__
    while frame is not None:
        owner = frame.tb_frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and frame.tb_frame.f_code.co_name == "forward":
            path = known.get(type(owner))
            name = f"{path} ({type(owner).__name__})" if path else type(owner).__name__
        frame = frame.tb_next
    return name
