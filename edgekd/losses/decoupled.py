"""Decoupled knowledge distillation (DKD)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from edgekd.losses._tensors import check_logits, check_positive, in_full


def decoupled(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    *,
    temperature: float,
    alpha: float,
    beta: float,
) -> Float[Tensor, ""]:
    """Decoupled soft targets: alpha times the divergence of the label's probability against all
    others, plus beta times the divergence among the others, in nats per sample, times T^2.

    The usual soft target has alpha = 1 and beta = 1 - the teacher's probability of the label. The
    probability of the others is a logsumexp of their logits, so that no logarithm of zero occurs.

    Args:
        labels: classes, from 0.
        temperature: T, positive.
        alpha, beta: weights of the target class and of the other classes; the paper uses 1 and 8.

    Raises:
        ValueError: `temperature` is not positive, the shapes differ or are not batch x classes with
            two classes or more, or labels are not one class per sample. The range of labels is
            checked on the CPU only, since the check would synchronize an accelerator.

    Source: Zhao et al. 2022, arXiv:2203.08679, equation 7.
    """
    check_positive(temperature=temperature)
    check_logits(student_logits, teacher_logits)
    batch, classes = student_logits.shape
    if labels.shape != (batch,) or labels.is_floating_point():
        raise ValueError(
            f"labels {tuple(labels.shape)} of {labels.dtype} are not one class for each sample of "
            f"student logits {tuple(student_logits.shape)}"
        )
    if labels.device.type == "cpu" and bool(((labels < 0) | (labels >= classes)).any()):
        raise ValueError(f"labels must be from 0 to {classes - 1}, got {labels.unique().tolist()}")
    with in_full(student_logits, teacher_logits) as (student, teacher):
        target = F.one_hot(labels, classes).bool()
        (ours, ours_rest), (theirs, theirs_rest) = (
            _parts(logits / temperature, labels, target) for logits in (student, teacher)
        )
        binary = (theirs.exp() * (theirs - ours)).sum(1)
        # The label is not among the others: its probability there is zero.
        among_rest = theirs_rest.exp() * (theirs_rest - ours_rest).masked_fill(target, 0.0)
        return (alpha * binary + beta * among_rest.sum(1)).mean() * temperature**2


def _parts(logits: Tensor, labels: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of (label, all others), and of each class among the others."""
    others = logits.masked_fill(target, -torch.inf)
    rest = torch.logsumexp(others, 1, keepdim=True)
    label = logits.gather(1, labels[:, None])
    return torch.log_softmax(torch.cat([label, rest], 1), 1), others - rest
