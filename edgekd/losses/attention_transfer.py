"""Attention transfer: squared difference of spatial attention maps."""

import math
from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edgekd.losses._tensors import check_same_batch, in_full


def attention_transfer(
    student_features: Float[Tensor, "batch channels *space"],
    teacher_features: Float[Tensor, "batch teacher_channels *teacher_space"],
    *,
    power: float = 2,
) -> Float[Tensor, ""]:
    """The mean squared difference of two attention maps: at each position the mean over channels of
    |features|^power, with each sample's map normalized to length 1.

    The larger of the two maps is average-pooled to the size of the smaller.

    Args:
        power: p, 1 or more; the paper uses 2.

    Raises:
        ValueError: `power` is below 1 or infinite, or these are not two maps of the same samples.

    Source: Zagoruyko, Komodakis 2017, arXiv:1612.03928, equation 2, by the authors' code, which
        takes the mean over positions and batch.
    """
    # Below 1 the gradient is unbounded at zero, where half of the features after a ReLU are.
    if not 1 <= power < math.inf:
        raise ValueError(f"power must be 1 or more and finite, got {power}")
    check_same_batch(student_features, teacher_features)
    if student_features.ndim != teacher_features.ndim or student_features.ndim < 3:
        raise ValueError(
            f"student features {tuple(student_features.shape)} and teacher features "
            f"{tuple(teacher_features.shape)} are not maps with the same number of axes"
        )
    with in_full(student_features, teacher_features) as (student, teacher):
        ours, theirs = (_attention(features, power) for features in (student, teacher))
        smaller = [min(sizes) for sizes in zip(ours.shape[1:], theirs.shape[1:], strict=True)]
        ours, theirs = (F.normalize(_pooled(each, smaller).flatten(1)) for each in (ours, theirs))
        return (ours - theirs).square().mean()


def _attention(features: Tensor, power: float) -> Tensor:
    """The mean over channels of |features|^power at each position, scaled per sample. The scale
    does not change the loss and prevents an overflow of large features."""
    largest = features.detach().abs().flatten(1).amax(1).clamp(min=1.0)
    scaled = features / largest.reshape(-1, *[1] * (features.ndim - 1))
    return scaled.abs().pow(power).mean(1)


def _pooled(maps: Tensor, size: list[int]) -> Tensor:
    if list(maps.shape[1:]) == size:
        return maps
    pools: list[Callable[..., Tensor]] = [
        F.adaptive_avg_pool1d,
        F.adaptive_avg_pool2d,
        F.adaptive_avg_pool3d,
    ]
    pooled = pools[len(size) - 1](maps[:, None], tuple(size))
    return pooled.squeeze(1)
