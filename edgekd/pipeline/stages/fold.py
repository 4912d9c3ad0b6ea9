"""Make preprocessing and softmax part of the network, where the recipe asks for it."""

from __future__ import annotations

from dataclasses import replace

from edgekd.conversion.preprocessing import folded, unprepared_data
from edgekd.pipeline.candidates.state import Work
from edgekd.system.files import digest
from edgekd.system.store import Run


def preflight(work: Work) -> None:
    """Tries the folding on the untaught student and one sample, before any training.

    Raises:
        RecipeError: see `folded`.
    """
    if work.recipe.export.folds:
        folded(work.student, work.recipe.export.inputs, work.recipe.export.outputs)


def step(work: Work, run: Run) -> Work:  # noqa: ARG001  every stage has one
    """The work with its networks taking raw inputs, and its data giving them."""
    inputs, outputs = work.recipe.export.inputs, work.recipe.export.outputs
    names = tuple(work.student.signature.input_names)
    told = {name: raw.model_dump() for name, raw in inputs.items()}
    return replace(
        work,
        student=folded(work.student, inputs, outputs),
        unpruned=None if work.unpruned is None else folded(work.unpruned, inputs, outputs),
        data=unprepared_data(work.data, names, inputs) if inputs else work.data,
        data_key=digest([work.data_key, told]) if inputs else work.data_key,
    )
