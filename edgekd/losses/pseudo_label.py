"""Hard-label distillation: the teacher's class as the label."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edgekd.losses._tensors import check_logits, in_full


def pseudo_label(
    student_logits: Float[Tensor, "batch classes"], teacher_logits: Float[Tensor, "batch classes"]
) -> Float[Tensor, ""]:
    """The cross-entropy of the teacher's largest class under the student, in nats per sample.

    It is the baseline of soft targets, without the teacher's other probabilities. It is positive,
    and approaches zero only if the student is certain; for a student equal to the teacher it is
    the mean of -log of the teacher's largest probability.

    Raises:
        ValueError: the shapes differ or are not batch x classes with two classes or more.

    Source: Touvron et al. 2021, arXiv:2012.12877, equation 3, "hard-label distillation".
    """
    check_logits(student_logits, teacher_logits)
    with in_full(student_logits, teacher_logits) as (student, teacher):
        return F.cross_entropy(student, teacher.argmax(1))
