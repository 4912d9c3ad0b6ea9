"""Embed preprocessing and softmax in the networks, if the recipe asks for it."""

from __future__ import annotations

from dataclasses import replace

from edgekd.conversion.preprocessing import embed_preprocessing, unprepared_data
from edgekd.pipeline.candidates.state import PipelineState
from edgekd.system.files import digest
from edgekd.system.store import Run


def preflight(state: PipelineState) -> None:
    """Embeds them in the untrained student as a trial, before any training.

    Raises:
        RecipeError: see `embed_preprocessing`.
    """
    if state.recipe.export.embeds:
        embed_preprocessing(state.student, state.recipe.export.inputs, state.recipe.export.outputs)


def step(state: PipelineState, run: Run) -> PipelineState:  # noqa: ARG001  every stage has one
    """The state with networks that take raw inputs, and with data that provides them."""
    inputs, outputs = state.recipe.export.inputs, state.recipe.export.outputs
    names = tuple(state.student.signature.input_names)
    raw_inputs = {name: raw.model_dump() for name, raw in inputs.items()}
    return replace(
        state,
        student=embed_preprocessing(state.student, inputs, outputs),
        unpruned=None
        if state.unpruned is None
        else embed_preprocessing(state.unpruned, inputs, outputs),
        data=unprepared_data(state.data, names, inputs) if inputs else state.data,
        data_key=digest([state.data_key, raw_inputs]) if inputs else state.data_key,
    )
