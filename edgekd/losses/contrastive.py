"""Contrastive representation distillation (InfoNCE) over the samples of a batch."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edgekd.losses._tensors import check_positive, check_same_shape, directions, in_full


def contrastive(
    student_features: Float[Tensor, "batch features"],
    teacher_features: Float[Tensor, "batch features"],
    *,
    temperature: float = 0.07,
) -> Float[Tensor, ""]:
    """InfoNCE: the cross-entropy, in nats per sample, of identifying a sample's own teacher feature
    among those of the batch, by cosine similarity divided by `temperature`.

    The loss relates the samples of a batch; a larger batch has more negatives. Its minimum is not
    zero. If the student's features equal the teacher's, it is the mean of
    log(sum_j exp((cos(t_i, t_j) - 1) / temperature)). That is the minimum over all pairings of
    these features with samples, but not over all students, which can move away from the negatives.
    Over all students and teachers of N samples, the minimum is
    log(1 + (N - 1) exp(-N / (N - 1) / temperature)), where both are the same regular simplex.

    Args:
        temperature: positive.

    Raises:
        ValueError: `temperature` is not positive, or these are not features of one shape.

    Source: van den Oord et al. 2018, arXiv:1807.03748, equation 4, between student and teacher as
        in Tian et al. 2020, arXiv:1910.10699, with the negatives of the batch and no memory bank.
    """
    check_positive(temperature=temperature)
    check_same_shape(student_features, teacher_features, "features")
    if student_features.ndim < 2:
        raise ValueError(f"features {tuple(student_features.shape)} are not batch x features")
    with in_full(student_features, teacher_features) as (student, teacher):
        ours, theirs = (directions(each.flatten(1)) for each in (student, teacher))
        own = torch.arange(len(ours), device=ours.device)
        return F.cross_entropy(ours @ theirs.T / temperature, own)
