"""What depends on a layer's channels, and which layers have to keep theirs.

Torch-Pruning follows the dependencies. What it follows wrongly (some splits, shuffles and recurrent
layers) is found out before anything is removed: each group of channels is tried alone, and must
leave what a network does in which the same channels are zero.

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
"""Most relative difference between a pruned and a masked network: another order of sums."""

TRACING = (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError,
           ArithmeticError, AssertionError, NotImplementedError)  # fmt: skip
"""What tracing, or a network that was pruned wrongly, raises."""


MOST_FOLLOWED = 2**22
"""Channels, over all layers of a group, after which it is taken for one without end: channels that
are split and shuffled several times are followed round and round, until the memory is full."""


@dataclass(frozen=True)
class Untouched:
    """A layer whose channels stay, and why."""

    layer: str
    reason: str


OUTPUT = "its channels are those of an output"
HEADS = "its heads go whole"


@dataclass(frozen=True)
class Group:
    """Channels of several layers that go together.

    Attributes:
        root: the layer that gives them.
        whole: Torch-Pruning's group of all of them.
        parts: in how many parts they are, all of which have to stay equally wide: those of grouped
            convolutions and norms, and of heads.
    """

    root: str
    whole: Any
    parts: int

    @property
    def width(self) -> int:
        """The channels of one part."""
        return len(self.whole[0].idxs) // self.parts

    def kept(self, remove_frac: float, round_to: int = 1) -> int:
        """How many channels a part keeps without this share: all of them a multiple, if any."""
        step = math.lcm(round_to, self.parts) // self.parts
        if remove_frac <= 0 or step >= self.width:
            return self.width
        return min(self.width, max(step, round(self.width * (1 - remove_frac) / step) * step))

    def least(self, scores: Tensor, kept: int) -> list[int]:
        """The channels that go where each part keeps so many: those of the lowest scores."""
        order = self.by_part(scores).argsort(stable=True)[: self.width - kept].tolist()
        return sorted(part * self.width + each for part in range(self.parts) for each in order)

    def by_part(self, scores: Tensor) -> Tensor:
        """The mean score over the parts, in which the same channels go."""
        return scores.detach().cpu().view(self.parts, -1).mean(0)


def groups_of(module: nn.Module, graph: Any, stay: Sequence[str]) -> list[Group]:
    """The groups of channels of `module` that may go, those of the layers in `stay` left out."""
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
    """Torch-Pruning's group of these channels of `group` alone; its `prune()` takes them out."""
    root = group.whole[0].dep
    return graph.get_pruning_group(root.target.module, root.handler, list(channels))


def untouchable(
    module: nn.Module, example: Mapping[str, Tensor], ignore: Sequence[str] = ()
) -> list[Untouched]:
    """The layers of `module` whose channels have to stay, each with the reason.

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
                found.setdefault(name, "a recurrent layer, whose channels are not followed")
        for heads in heads_of(module, graph):
            why = _tried_heads(module, example, heads) or HEADS
            for name in heads.projections:
                found.setdefault(name, why)
        found.update(_not_followed(module, graph, found))
        roots = [group.root for group in groups_of(module, graph, list(found))]
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
    """The paths of the layer at `path` and of all below it.

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
    """Torch-Pruning's graph of what depends on what in `module`."""
    pruning = need("torch_pruning", extra="prune")
    return pruning.DependencyGraph().build_dependency(
        module, example_inputs=dict(example), forward_fn=call
    )


def _not_followed(module: nn.Module, graph: Any, stay: Mapping[str, str]) -> dict[str, str]:
    """By layer, why the library cannot say what depends on its channels."""
    found = {}
    for name, width in widths(module).items():
        layer = module.get_submodule(name)
        if name in stay or layer not in graph.module2node:
            continue
        remove = graph.get_pruner_of_module(layer).prune_out_channels
        try:
            graph.get_pruning_group(layer, remove, list(range(width)))
        except TRACING as error:
            found[name] = f"what depends on them is not followed: {type(error).__name__}: {error}"
    return found


def _tried_heads(module: nn.Module, example: Mapping[str, Tensor], heads: Heads) -> str | None:
    """Why half the heads cannot be removed, or None."""
    numbers = list(range(heads.count // 2))
    pruned, masked = copy.deepcopy(module), masked_heads(module, heads, numbers)
    try:
        remove_heads(pruned, heads, numbers)
        with torch.no_grad():
            return _differing(call(pruned, example), call(masked, example), exact=True)
    except TRACING as error:
        return f"its module does not run with fewer heads: {type(error).__name__}: {error}"


def _tried(
    module: nn.Module, example: Mapping[str, Tensor], root: str, stay: Sequence[str], sign: float
) -> str | None:
    """Why half the channels of the group of `root` cannot be removed, or None."""
    magnitude = IMPORTANCES["l2"](need("torch_pruning", extra="prune"))
    pruned, masked = copy.deepcopy(module), copy.deepcopy(module)
    with quiet():
        try:
            graph = graph_of(pruned, example)
            names = {layer: name for name, layer in pruned.named_modules()}
            group = next(each for each in groups_of(pruned, graph, stay) if each.root == root)
            magnitude(group.whole)  # Raises where the group's channels are not those of its layers.
            scores = sign * torch.arange(len(group.whole[0].idxs), dtype=torch.float32)
            channels = group.least(scores, max(1, group.width // 2))
            some = without_channels(graph, group, channels)
            if not channels or not graph.check_pruning_group(some):
                return "half of them cannot be removed"
            exact = True
            for dep, places in some:
                exact &= _mask(masked, names.get(dep.target.module), dep, places)
            some.prune()
            with torch.no_grad():
                return _differing(call(pruned, example), call(masked, example), exact=exact)
        except TRACING as error:
            return f"what depends on them is not followed: {type(error).__name__}: {error}"


def _differing(
    left: Mapping[str, Tensor], zeroed: Mapping[str, Tensor], *, exact: bool
) -> str | None:
    """How the outputs of a pruned network differ from those of the masked one, or None."""
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
    # Of how much they vary, as a large constant hides nothing; and what adding it rounds away.
    spread = float(theirs.std(correction=0))
    rounded = float(theirs.abs().max()) * 10 * torch.finfo(theirs.dtype).eps
    return float((ours - theirs).abs().max()) <= TOLERANCE * spread + rounded


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


def widths(module: nn.Module) -> dict[str, int]:
    """By module path, the number of channels a layer gives."""
    found: dict[str, int] = {}
    for name, layer in module.named_modules():
        if isinstance(layer, _ConvNd):
            found[name] = layer.out_channels
        elif isinstance(layer, nn.Linear):
            found[name] = layer.out_features
    return found


@contextmanager
def quiet() -> Iterator[None]:
    """Without the library's warnings, which trying finds out too, and with an end to its work."""
    group = need("torch_pruning.dependency.group", extra="prune").Group
    add = group.add_dep

    def add_few(self: Any, dep: Any, idxs: Any) -> None:
        self.followed = getattr(self, "followed", 0) + len(idxs)
        if self.followed > MOST_FOLLOWED:
            raise RuntimeError(f"more than {MOST_FOLLOWED:,} channels seem to depend on them")
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
    """Tells a network that cannot be traced, and where in it that is."""
    try:
        yield
    except TRACING as error:
        raise RecipeError(
            Fault(
                what="What depends on the channels of the network cannot be followed.",
                at=_place_of(error, module),
                got=f"{type(error).__name__}: {error}",
                expected="a network that torch-pruning traces; its forward may not branch on data",
                fix='name this part in prune.ignore, or set prune.method = "unstructured"',
            )
        ) from error


def _place_of(error: Exception, module: nn.Module) -> str:
    """The innermost module whose forward raised `error`."""
    known = {type(part): path for path, part in reversed(list(module.named_modules())) if path}
    place, frame = type(module).__name__, error.__traceback__
    while frame is not None:
        owner = frame.tb_frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and frame.tb_frame.f_code.co_name == "forward":
            path = known.get(type(owner))
            place = f"{path} ({type(owner).__name__})" if path else type(owner).__name__
        frame = frame.tb_next
    return place
