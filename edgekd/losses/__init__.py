"""Distillation losses: plain functions of tensors, one file each, named as in their papers.

The positional arguments of a loss name the tensors it compares (`student_logits`, `teacher_logits`,
`labels`); its keyword-only arguments are its options in a recipe.
"""

import inspect
from collections.abc import Callable
from importlib.metadata import entry_points

from torch import Tensor

from edgekd.errors import Fault, RecipeError, unknown
from edgekd.losses.attention_relation import attention_relation
from edgekd.losses.attention_transfer import attention_transfer
from edgekd.losses.contrastive import contrastive
from edgekd.losses.cosine_embedding import cosine_embedding
from edgekd.losses.decoupled import decoupled
from edgekd.losses.dist import dist
from edgekd.losses.hierarchical_context import hierarchical_context
from edgekd.losses.hint import hint
from edgekd.losses.huber import huber
from edgekd.losses.masked_generative import masked_generative
from edgekd.losses.mean_squared import mean_squared
from edgekd.losses.probabilistic_transfer import probabilistic_transfer
from edgekd.losses.pseudo_label import pseudo_label
from edgekd.losses.relational_angle import relational_angle
from edgekd.losses.relational_distance import relational_distance
from edgekd.losses.similarity_preserving import similarity_preserving
from edgekd.losses.soft_target import soft_target
from edgekd.losses.standardized_soft_target import standardized_soft_target

LOSSES: dict[str, Callable[..., Tensor]] = {
    "soft_target": soft_target,
    "decoupled": decoupled,
    "dist": dist,
    "standardized_soft_target": standardized_soft_target,
    "hint": hint,
    "attention_transfer": attention_transfer,
    "relational_distance": relational_distance,
    "relational_angle": relational_angle,
    "similarity_preserving": similarity_preserving,
    "probabilistic_transfer": probabilistic_transfer,
    "hierarchical_context": hierarchical_context,
    "contrastive": contrastive,
    "attention_relation": attention_relation,
    "cosine_embedding": cosine_embedding,
    "masked_generative": masked_generative,
    "pseudo_label": pseudo_label,
    "mean_squared": mean_squared,
    "huber": huber,
}

RELATES_SAMPLES = frozenset(
    {
        "dist",
        "relational_distance",
        "relational_angle",
        "similarity_preserving",
        "probabilistic_transfer",
        "contrastive",
    }
)
"""Losses of a batch that differ from the mean loss of its samples. If several processes train one
student, each of them needs the samples of all."""


def relates_samples(function: Callable[..., Tensor]) -> bool:
    """Whether `function` relates the samples of a batch; one that is not part of edgekd says so by
    its attribute `relates_samples`."""
    name = getattr(function, "__name__", "")
    if LOSSES.get(name) is function:
        return name in RELATES_SAMPLES
    return bool(getattr(function, "relates_samples", False))


def find_loss(name: str, *, at: str = "method") -> Callable[..., Tensor]:
    """The loss `name`: of `LOSSES`, or of an installed package's entry points `edgekd.losses`.

    Args:
        at: the recipe's key, for messages.

    Raises:
        RecipeError: there is no such loss, or its package cannot be imported.
    """
    if name in LOSSES:
        return LOSSES[name]
    entries = {entry.name: entry for entry in entry_points(group="edgekd.losses")}
    if name not in entries:
        raise RecipeError(unknown("loss", name, [*LOSSES, *entries], at))
    try:
        function: Callable[..., Tensor] = entries[name].load()
    except Exception as error:
        raise RecipeError(
            Fault(
                what=f"The entry point {name!r} of edgekd.losses cannot be loaded.",
                at=at,
                got=f"{type(error).__name__}: {error}",
                expected=f"{entries[name].value} can be imported",
                fix="repair or uninstall the package that declares it",
            )
        ) from error
    return function


def loss_names() -> list[str]:
    """The names of all losses, installed packages' included."""
    return [*LOSSES, *(entry.name for entry in entry_points(group="edgekd.losses"))]


def options_of(function: Callable[..., Tensor]) -> dict[str, bool]:
    """The keyword-only arguments of `function`, and whether each is required."""
    parameters = inspect.signature(function).parameters.values()
    return {
        entry.name: entry.default is inspect.Parameter.empty
        for entry in parameters
        if entry.kind is inspect.Parameter.KEYWORD_ONLY
    }


def input_names(function: Callable[..., Tensor]) -> list[str]:
    """The positional arguments of `function`: the tensors it compares."""
    parameters = inspect.signature(function).parameters.values()
    return [entry.name for entry in parameters if entry.kind is not inspect.Parameter.KEYWORD_ONLY]


__all__ = [
    "LOSSES",
    "RELATES_SAMPLES",
    "attention_relation",
    "attention_transfer",
    "contrastive",
    "cosine_embedding",
    "decoupled",
    "dist",
    "find_loss",
    "hierarchical_context",
    "hint",
    "huber",
    "input_names",
    "loss_names",
    "masked_generative",
    "mean_squared",
    "options_of",
    "probabilistic_transfer",
    "pseudo_label",
    "relates_samples",
    "relational_angle",
    "relational_distance",
    "similarity_preserving",
    "soft_target",
    "standardized_soft_target",
]
