"""Distillation methods: plain functions of tensors, one file each, named as in their papers.

A method's positional arguments say what it compares (`student_logits`, `teacher_logits`, `labels`),
its keyword-only arguments are its options in a recipe.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib.metadata import entry_points

from torch import Tensor

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
"""Methods whose loss of a batch is not the mean of that of its samples: of several processes that
train one student, each needs the samples of all."""


def relates_samples(name: str) -> bool:
    """Whether the method `name` relates samples; one of another package says so by an attribute
    `relates_samples` of its function."""
    if name in LOSSES:
        return name in RELATES_SAMPLES
    return bool(getattr(find_loss(name), "relates_samples", False))


def find_loss(name: str) -> Callable[..., Tensor]:
    """The method `name`: of this table, or of an installed package's entry point `edgekd.losses`.

    Raises:
        KeyError: there is none.
    """
    if name in LOSSES:
        return LOSSES[name]
    found = {entry.name: entry for entry in entry_points(group="edgekd.losses")}
    function: Callable[..., Tensor] = found[name].load()
    return function


def loss_names() -> list[str]:
    """All methods there are."""
    return [*LOSSES, *(entry.name for entry in entry_points(group="edgekd.losses"))]


def options_of(function: Callable[..., Tensor]) -> dict[str, bool]:
    """The keyword-only arguments of `function`, and whether each must be given."""
    parameters = inspect.signature(function).parameters.values()
    return {
        entry.name: entry.default is inspect.Parameter.empty
        for entry in parameters
        if entry.kind is inspect.Parameter.KEYWORD_ONLY
    }


def input_names(function: Callable[..., Tensor]) -> list[str]:
    """The positional arguments of `function`: what it compares."""
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
