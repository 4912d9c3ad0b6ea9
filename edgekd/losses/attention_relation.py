"""MiniLM's attention relation: divergence of attention distributions."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edgekd.losses._tensors import in_full


def attention_relation(
    student_queries: Float[Tensor, "batch ..."],
    student_keys: Float[Tensor, "batch ..."],
    teacher_queries: Float[Tensor, "batch ..."],
    teacher_keys: Float[Tensor, "batch ..."],
    *,
    heads: int | None = None,
) -> Float[Tensor, ""]:
    """The divergence of the student's attention from the teacher's, softmax(Q K^T / sqrt(d)), in
    nats, averaged over samples, heads and tokens. Widths may differ, the number of heads may not.

    Args:
        student_queries, student_keys, teacher_queries, teacher_keys: batch x heads x tokens x
            width, or, with `heads`, batch x tokens x features.
        heads: the number of heads that features are split into, for student and teacher.

    Raises:
        ValueError: samples, heads or tokens differ, a network's queries and keys differ in width,
            or features cannot be split into the heads.

    Source: Wang et al. 2020, arXiv:2002.10957, equation 7.
    """
    given = (student_queries, student_keys, teacher_queries, teacher_keys)
    queries, keys, their_queries, their_keys = (_in_heads(tensor, heads) for tensor in given)
    if not queries.shape[:3] == keys.shape[:3] == their_queries.shape[:3] == their_keys.shape[:3]:
        raise ValueError(
            "samples, heads or tokens differ: student "
            f"{tuple(queries.shape)}, {tuple(keys.shape)}, teacher "
            f"{tuple(their_queries.shape)}, {tuple(their_keys.shape)}"
        )
    for ours, theirs, who in ((queries, keys, "student"), (their_queries, their_keys, "teacher")):
        if ours.shape[3] != theirs.shape[3]:
            raise ValueError(
                f"{who} queries {tuple(ours.shape)} and keys {tuple(theirs.shape)} differ in width"
            )
    with (
        in_full(queries, their_queries) as (queries, their_queries),
        in_full(keys, their_keys) as (keys, their_keys),
    ):
        ours, theirs = _attention(queries, keys), _attention(their_queries, their_keys)
        divergence = F.kl_div(ours, theirs, reduction="sum", log_target=True)
        return divergence / ours[..., 0].numel()


def _in_heads(tensor: Tensor, heads: int | None) -> Tensor:
    if tensor.ndim == 4 and heads in (None, tensor.shape[1]):
        return tensor
    if tensor.ndim != 3 or heads is None or heads < 1 or tensor.shape[2] % heads:
        raise ValueError(
            f"{tuple(tensor.shape)} is not batch x heads x tokens x width, nor batch x tokens x "
            f"features, of heads = {heads}"
        )
    return tensor.reshape(*tensor.shape[:2], heads, -1).transpose(1, 2)


def _attention(queries: Tensor, keys: Tensor) -> Tensor:
    scale = float(queries.shape[3]) ** 0.5
    return F.log_softmax(queries @ keys.transpose(2, 3) / scale, dim=3)
