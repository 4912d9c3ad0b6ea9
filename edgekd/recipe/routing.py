"""The `[route]` table of a recipe."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from edgekd.recipe.table import Part


class Route(Part):
    """Which answers a device keeps; for the others it asks the teacher."""

    agreement: Annotated[
        float, Field(gt=0, lt=1, description="with the teacher, of what is kept, at least")
    ] = 0.99
    confidence: Annotated[
        float, Field(gt=0.5, lt=1, description="with which that holds of samples to come")
    ] = 0.95
