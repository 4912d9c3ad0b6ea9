"""Hinton's soft targets."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def soft_target(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    *,
    temperature: float,
) -> Float[Tensor, ""]:
    """Divergence of the softened student from the softened teacher, in nats per sample, times T^2.

    T^2 / N * sum_i KL(softmax(t_i / T) || softmax(s_i / T)). The factor T^2 keeps the size of the
    gradient if T changes. No gradient reaches the teacher. The loss is computed in float32 or
    better, also under autocast.

    Args:
        temperature: T, positive; a larger T emphasizes the teacher's small probabilities.

    Raises:
        ValueError: `temperature` is not positive, or the shapes differ.

    Source: Hinton, Vinyals, Dean 2015, arXiv:1503.02531, section 2.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"student logits {tuple(student_logits.shape)} and teacher logits "
            f"{tuple(teacher_logits.shape)} differ in shape"
        )
    with torch.autocast(student_logits.device.type, enabled=False):
        dtype = torch.promote_types(student_logits.dtype, torch.float32)
        student = F.log_softmax(student_logits.to(dtype) / temperature, dim=1)
        teacher = F.log_softmax(teacher_logits.detach().to(dtype) / temperature, dim=1)
        divergence = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return divergence * temperature**2
