"""The `[student.dynamic.NAME]` table of a recipe: a dynamic dimension."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from edgekd.recipe.table import Table


class Range(Table):
    """A dynamic dimension: its size, e.g. the number of tokens, may differ between calls."""

    min: Annotated[int, Field(ge=1, description="Smallest size.")]
    max: Annotated[int, Field(ge=2, description="Largest size.")]
    axes: Annotated[
        dict[str, Annotated[int, Field(ge=0)]],
        Field(min_length=1, description="For each input, the axis of this dimension."),
    ]
