"""Probabilistic knowledge transfer (PKT)."""

from jaxtyping import Float
from torch import Tensor

from edgekd.losses._tensors import check_same_batch, directions, in_full

EPSILON = 1e-7
"""Added inside the logarithms, as in the authors' code."""


def probabilistic_transfer(
    student_features: Float[Tensor, "batch ..."], teacher_features: Float[Tensor, "batch ..."]
) -> Float[Tensor, ""]:
    """The divergence of the student's conditional probabilities of samples from the teacher's:
    cosine similarities shifted to 0-1 and divided by their row's sum. The mean is over batch^2.

    The loss relates the samples of a batch.

    Raises:
        ValueError: these are not features of the same samples.

    Source: Passalis, Tefas 2018, arXiv:1803.10837, equations 4 to 8, by the authors' code, which
        takes the mean over all pairs.
    """
    check_same_batch(student_features, teacher_features)
    with in_full(student_features, teacher_features) as (student, teacher):
        ours, theirs = (_probabilities(each.flatten(1)) for each in (student, teacher))
        return (theirs * ((theirs + EPSILON) / (ours + EPSILON)).log()).mean()


def _probabilities(flat: Tensor) -> Tensor:
    unit = directions(flat)
    similar = (unit @ unit.T + 1.0) / 2.0
    return similar / similar.sum(1, keepdim=True)
