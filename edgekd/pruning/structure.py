"""Whole channels removed from a network, with all that depends on them.

Torch-Pruning follows the dependencies. What it follows wrongly (some splits, shuffles and recurrent
layers) is found out before anything is removed: each group of channels is tried alone, and must
leave what a network does in which the same channels are zero.

Source: Fang et al. 2023, arXiv:2301.12900; github.com/VainF/Torch-Pruning.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from edgekd.errors import Fault, RecipeError, nearest
from edgekd.need import need
from edgekd.network import call

TOLERANCE = 1e-4
"""Most relative difference between a pruned and a masked network: another order of sums."""

TRACING = (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError,
           AssertionError, NotImplementedError)  # fmt: skip
"""What tracing, or a network that was pruned wrongly, raises."""


@dataclass(frozen=True)
class Untouched:
    """A layer whose channels stay, and why."""

    layer: str
    reason: str


@dataclass(frozen=True)
class Pruned:
    """A network without some of its channels.

    Attributes:
        widths: by layer, its channels before and after, where the two differ.
        untouched: layers whose channels could not be removed.
    """

    module: nn.Module
    widths: Mapping[str, tuple[int, int]]
    untouched: tuple[Untouched, ...]


def prune_channels(
    module: nn.Module,
    example: Mapping[str, Tensor],
    remove_frac: float,
    *,
    importance: str = "l2",
    everywhere: bool = False,
    round_to: int | None = None,
    ignore: Sequence[str] = (),
    untouched: Sequence[Untouched] | None = None,
) -> Pruned:
    """A copy of `module` without this share of the channels of its layers, in eval mode on the CPU.

    Inputs and outputs keep their shapes.

    Args:
        example: inputs by name, batch first.
        remove_frac: 0 to 1.
        importance: of what is kept; a name of `IMPORTANCES`.
        everywhere: whether channels of all layers are ranked together; else the share is each
            layer's own.
        round_to: what is kept of a layer is a multiple of this, at least one.
        ignore: module paths, the layers below which keep their channels.
        untouched: what `untouchable` found, where it has been asked.

    Raises:
        RecipeError: a path does not exist, or the network cannot be traced.
        MissingPackageError: torch-pruning is not installed.
    """
    pruning = need("torch_pruning", extra="prune")
    stay = list(untouchable(module, example, ignore) if untouched is None else untouched)
    pruned = copy.deepcopy(module).eval().cpu()
    with _quiet(), _told(module):
        pruner = _pruner(
            pruned,
            example,
            IMPORTANCES[importance](pruning),
            remove_frac,
            [each.layer for each in stay],
            everywhere=everywhere,
            round_to=round_to,
        )
        pruner.step()
        with torch.no_grad():
            call(pruned, example)
    before, after = _widths(module), _widths(pruned)
    changed = {name: (before[name], after[name]) for name in before if before[name] != after[name]}
    return Pruned(pruned, changed, tuple(each for each in stay if each.reason != _OUTPUT))


IMPORTANCES: dict[str, Callable[[Any], Any]] = {
    "l1": lambda pruning: pruning.importance.GroupMagnitudeImportance(p=1),
    "l2": lambda pruning: pruning.importance.GroupMagnitudeImportance(p=2),
    "bn-scale": lambda pruning: pruning.importance.BNScaleImportance(),
    "random": lambda pruning: pruning.importance.RandomImportance(),
}
"""What makes a channel worth keeping, over all layers that depend on it."""

_OUTPUT = "its channels are those of an output"


def untouchable(
    module: nn.Module, example: Mapping[str, Tensor], ignore: Sequence[str] = ()
) -> list[Untouched]:
    """The layers of `module` whose channels have to stay, each with the reason.

    Raises:
        RecipeError: a path in `ignore` does not exist, or the network cannot be traced.
    """
    module = copy.deepcopy(module).eval().cpu()
    layers = dict(module.named_modules())
    names = {layer: name for name, layer in layers.items()}
    found = {name: "asked for" for path in ignore for name in _below(module, path)}
    with _quiet(), _told(module):
        for layer in output_layers(module, example):
            found.setdefault(names[layer], _OUTPUT)
        for layer, name in names.items():
            if isinstance(layer, nn.RNNBase):
                found.setdefault(name, "a recurrent layer, whose channels are not followed")
        found.update(_not_followed(module, example, found))
        groups = _graph(module, example).get_all_groups([layers[name] for name in found])
        roots = [names[group[0].dep.target.module] for group in groups]
    for root in roots:
        # The first half, and the last: what only some channels show is no accident then.
        for sign in (1.0, -1.0):
            reason = _tried(module, example, root, list(found), sign)
            if reason is not None:
                found[root] = reason
                break
    return [Untouched(name, reason) for name, reason in found.items()]


def output_layers(module: nn.Module, example: Mapping[str, Tensor]) -> list[nn.Module]:
    """The layers whose channels are those of an output of `module`."""
    ends = [node for node in _graph(module, example).module2node.values() if not node.outputs]
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


def _below(module: nn.Module, path: str) -> list[str]:
    """The paths of the layer at `path` and of all below it."""
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


def _graph(module: nn.Module, example: Mapping[str, Tensor]) -> Any:
    pruning = need("torch_pruning", extra="prune")
    return pruning.DependencyGraph().build_dependency(
        module, example_inputs=dict(example), forward_fn=call
    )


def _not_followed(
    module: nn.Module, example: Mapping[str, Tensor], stay: Mapping[str, str]
) -> dict[str, str]:
    """By layer, why the library cannot say what depends on its channels."""
    graph, found = _graph(module, example), {}
    for name, layer in module.named_modules():
        if name in stay or name not in _widths(module) or layer not in graph.module2node:
            continue
        remove = graph.get_pruner_of_module(layer).prune_out_channels
        try:
            graph.get_pruning_group(layer, remove, list(range(_widths(module)[name])))
        except TRACING as error:
            found[name] = f"what depends on them is not followed: {type(error).__name__}: {error}"
    return found


def _pruner(
    module: nn.Module,
    example: Mapping[str, Tensor],
    importance: Any,
    remove_frac: float,
    stay: Sequence[str],
    *,
    everywhere: bool = False,
    round_to: int | None = None,
) -> Any:
    pruning = need("torch_pruning", extra="prune")
    layers = dict(module.named_modules())
    return pruning.pruner.BasePruner(
        module,
        example_inputs=dict(example),
        importance=importance,
        pruning_ratio=remove_frac,
        global_pruning=everywhere,
        # Ranked over all layers, a layer could lose every channel.
        max_pruning_ratio=0.9 if everywhere else 1.0,
        ignored_layers=[layers[name] for name in stay],
        round_to=round_to,
        forward_fn=call,
        # The library's defaults are dicts that all pruners share.
        in_channel_groups={},
        out_channel_groups={},
        num_heads={
            layer: layer.num_heads
            for layer in layers.values()
            if isinstance(layer, nn.MultiheadAttention)
        },
    )


def _tried(
    module: nn.Module, example: Mapping[str, Tensor], root: str, stay: Sequence[str], sign: float
) -> str | None:
    """Why half the channels of the group of `root` cannot be removed, or None."""

    magnitude = IMPORTANCES["l2"](need("torch_pruning", extra="prune"))

    def rank(group: Any) -> Tensor:
        magnitude(group)  # Raises where the group's channels are not those of its layers.
        return sign * torch.arange(len(group[0].idxs), dtype=torch.float32)

    pruned, masked = copy.deepcopy(module), copy.deepcopy(module)
    others = [name for name in _widths(module) if name != root]
    with _quiet():
        try:
            pruner = _pruner(pruned, example, rank, 0.5, stay)
            names = {layer: name for name, layer in pruned.named_modules()}
            exact, removed = True, False
            for group in pruner.step(interactive=True):
                if names[group[0].dep.target.module] in others:
                    continue
                for dep, places in group:
                    exact &= _mask(masked, names.get(dep.target.module), dep, places)
                group.prune()
                removed = True
            if not removed:
                return "half of them cannot be removed"
            with torch.no_grad():
                left, zeroed = call(pruned, example), call(masked, example)
        except TRACING as error:
            return f"what depends on them is not followed: {type(error).__name__}: {error}"
    for name, ours in left.items():
        theirs = zeroed[name]
        if ours.shape != theirs.shape:
            return f"the output {name!r} would be {tuple(ours.shape)}"
        if exact and not _close(ours, theirs):
            return "without them the network is not what it is with them at zero"
    return None


def _close(ours: Tensor, theirs: Tensor) -> bool:
    if not ours.is_floating_point():
        return True
    scale = float(theirs.abs().max()) or 1.0
    return float((ours - theirs).abs().max()) <= TOLERANCE * scale


def _mask(module: nn.Module, name: str | None, dep: Any, places: Sequence[Any]) -> bool:
    """Zeroes the channels that `dep` removes; whether that is what their absence comes to."""
    if name is None:
        return not isinstance(dep.target.module, nn.Parameter)
    layer = module.get_submodule(name)
    ids = [int(getattr(place, "idx", place)) for place in places]
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
    # Without parameters there is nothing to zero; a norm over the channels sees their absence.
    return not list(layer.parameters())


def _widths(module: nn.Module) -> dict[str, int]:
    """By module path, the number of channels a layer gives."""
    found: dict[str, int] = {}
    for name, layer in module.named_modules():
        if isinstance(layer, _ConvNd):
            found[name] = layer.out_channels
        elif isinstance(layer, nn.Linear):
            found[name] = layer.out_features
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's warnings; what they tell is found out by trying."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _told(module: nn.Module) -> Iterator[None]:
    """Tells a network that cannot be traced."""
    try:
        yield
    except TRACING as error:
        raise RecipeError(
            Fault(
                what="What depends on the channels of the network cannot be followed.",
                at=type(module).__name__,
                got=f"{type(error).__name__}: {error}",
                expected="a network that torch-pruning traces; its forward may not branch on data",
                fix="name the part it cannot follow in ignore, or prune unstructured",
            )
        ) from error
