"""The range of a dynamic dimension in a recipe."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from edgekd.recipe.table import Part


class Range(Part):
    """A size of inputs that may differ from call to call, such as the number of tokens."""

    min: Annotated[int, Field(ge=1, description="the least size")]
    max: Annotated[int, Field(ge=2, description="the largest")]
    axes: Annotated[
        dict[str, Annotated[int, Field(ge=0)]],
        Field(min_length=1, description="by input, the axis that has this size"),
    ]
