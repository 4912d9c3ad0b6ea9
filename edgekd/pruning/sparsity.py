"""Sets single weights to zero: the smallest ones, or all but n of every m in a row.

The shapes do not change. The network is smaller only in a compressed file, and faster only in a
runtime that skips zeros, which most do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from edgekd.errors import Fault, RecipeError


def sparse_weights(module: nn.Module, ignore: Sequence[str] = ()) -> dict[str, Tensor]:
    """The weights that can be made sparse, by name: those of linear layers and convolutions."""
    found = {}
    for name, layer in module.named_modules():
        skipped = any(name == path or name.startswith(f"{path}.") for path in ignore)
        if isinstance(layer, nn.Linear | _ConvNd) and not skipped:
            found[f"{name}.weight" if name else "weight"] = layer.weight
    return found


def uses_of(module: nn.Module, run: Callable[[], object]) -> dict[str, int]:
    """How often each value of a weight is multiplied in one run, by name of the weight.

    Args:
        run: calls `module` with one sample.
    """
    names = {layer: name for name, layer in module.named_modules()}
    found: dict[str, int] = {}

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        values = inputs[0] if isinstance(layer, _ConvTransposeNd) else output
        channels = values.shape[1] if isinstance(layer, _ConvNd) else values.shape[-1]
        name = f"{names[layer]}.weight" if names[layer] else "weight"
        found[name] = found.get(name, 0) + values.numel() // channels

    layers = [layer for layer in names if isinstance(layer, nn.Linear | _ConvNd)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return found


def magnitude_masks(
    module: nn.Module,
    remove_frac: float,
    *,
    everywhere: bool = True,
    ignore: Sequence[str] = (),
    costs: Mapping[str, float] | None = None,
) -> dict[str, Tensor]:
    """Masks of the kept values by name of a weight: all but this share, smallest in magnitude.

    Args:
        everywhere: whether the weights of all layers are ranked together, or each layer's alone.
        costs: the cost of each value of a weight, by name of the weight; 1 if None.

    Source: Han et al. 2015, arXiv:1506.02626.
    """
    weights = sparse_weights(module, ignore)
    if not everywhere:
        return {name: _largest(tensor, remove_frac) for name, tensor in weights.items()}
    whole = torch.cat([tensor.detach().flatten().cpu() for tensor in weights.values()])
    counts = [float((costs or {}).get(name, 1.0 if costs is None else 0.0)) for name in weights]
    sizes = [tensor.numel() for tensor in weights.values()]
    cost = torch.tensor(counts).repeat_interleave(torch.tensor(sizes))
    kept = _largest(whole, remove_frac, cost if costs else None).split(sizes)
    return {
        name: part.view_as(tensor)
        for (name, tensor), part in zip(weights.items(), kept, strict=True)
    }


def _largest(values: Tensor, remove_frac: float, cost: Tensor | None = None) -> Tensor:
    """True except for the smallest values, exactly the requested share even among equal ones."""
    order = values.detach().abs().flatten().cpu().argsort(stable=True)
    kept = torch.ones(values.numel(), dtype=torch.bool)
    gone = round(remove_frac * values.numel())
    if cost is not None:
        gone = int((cost[order].double().cumsum(0) <= remove_frac * cost.double().sum()).sum())
    kept[order[:gone]] = False
    return kept.view(values.shape)


def kept_frac(masks: Mapping[str, Tensor], costs: Mapping[str, float] | None = None) -> float:
    """The share of the masked weights that is kept (0-1), weighted by `costs`."""
    counts = {name: 1.0 if costs is None else float(costs.get(name, 0.0)) for name in masks}
    whole = sum(counts[name] * mask.numel() for name, mask in masks.items())
    kept = sum(counts[name] * int(mask.sum()) for name, mask in masks.items())
    return kept / whole if whole else 1.0


def n_of_m_masks(
    module: nn.Module, n: int, m: int, *, ignore: Sequence[str] = ()
) -> dict[str, Tensor]:
    """Masks of the kept values by name of a weight: the n largest of every m along the inputs.

    A weight whose inputs are not a multiple of m is not pruned, and has no mask.

    Raises:
        RecipeError: not 0 < n < m.

    Source: Mishra et al. 2021, arXiv:2104.08378, for 2 of 4.
    """
    if not 0 < n < m:
        raise RecipeError(
            Fault(
                what="This is not a pattern of n of m kept values.",
                at="prune.pattern",
                got=f"{n}:{m}",
                expected="0 < n < m, such as 2:4",
                fix='set pattern = "2:4"',
            )
        )
    masks = {}
    for name, tensor in sparse_weights(module, ignore).items():
        # The inputs are moved last, in the order of a convolution's matrix product.
        rows = tensor.detach().abs().movedim(1, -1)
        if rows.shape[-1] % m:
            continue
        groups = rows.reshape(-1, m)
        kept = torch.zeros_like(groups, dtype=torch.bool)
        kept.scatter_(1, groups.topk(n, dim=1).indices, True)
        masks[name] = kept.view(rows.shape).movedim(-1, 1).contiguous()
    return masks


def apply_masks(module: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Sets the values that the masks do not keep to zero."""
    weights = dict(module.named_parameters())
    with torch.no_grad():
        for name, kept in masks.items():
            weights[name].mul_(kept.to(weights[name].device))


def density(module: nn.Module, names: Iterable[str] | None = None) -> float:
    """The share of the weights of linear layers and convolutions that are not zero (0-1)."""
    weights = sparse_weights(module)
    chosen = [weights[name] for name in (weights if names is None else names)]
    return sum(int((tensor != 0).sum()) for tensor in chosen) / sum(t.numel() for t in chosen)
