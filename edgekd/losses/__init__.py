"""Distillation methods: plain functions of tensors, one file each, named as in their papers.

A method's positional arguments say what it compares (`student_logits`, `teacher_logits`, `labels`),
its keyword-only arguments are its options in a recipe.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib.metadata import entry_points

from torch import Tensor

from edgekd.losses.soft_target import soft_target

LOSSES: dict[str, Callable[..., Tensor]] = {
    "soft_target": soft_target,
}


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
    "find_loss",
    "input_names",
    "loss_names",
    "options_of",
    "soft_target",
]
