"""The `[route]` table of a recipe."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from edgekd.recipe.table import Table


class Route(Table):
    """Model cascade: which answers the device keeps, and which it defers to the teacher."""

    agreement: Annotated[
        float,
        Field(
            gt=0,
            lt=1,
            description="Lowest agreement with the teacher of the answers that the device keeps.",
        ),
    ] = 0.99
    confidence: Annotated[
        float,
        Field(
            gt=0.5, lt=1, description="Probability with which the agreement holds for new samples."
        ),
    ] = 0.95
