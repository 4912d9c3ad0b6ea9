"""The tables of a recipe that embed preprocessing and postprocessing in the exported file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from edgekd.recipe.table import Table


class Raw(Table):
    """The raw input that a file takes instead of an input of the network.

    The file computes the network's input as (value * scale - mean) / std, per channel.
    """

    dtype: Annotated[
        Literal["uint8", "float32"], Field(description="Data type of the raw input.")
    ] = "uint8"
    layout: Annotated[
        Literal["nhwc", "nchw", "same"],
        Field(
            description="Axes of the raw image: channels last (as cameras deliver it) or "
            "first. same: the axes of the network's input, for inputs that are "
            "not images."
        ),
    ] = "nhwc"
    scale: Annotated[
        float,
        Field(gt=0, description="Factor of a raw value; 1/255 if the network expects 0 to 1."),
    ] = 1.0
    mean: Annotated[
        list[float], Field(min_length=1, description="Mean per channel, or one for all channels.")
    ] = Field(default_factory=lambda: [0.0])
    std: Annotated[
        list[Annotated[float, Field(gt=0)]],
        Field(min_length=1, description="Standard deviation per channel, or one for all channels."),
    ] = Field(default_factory=lambda: [1.0])


Head = Literal["logits", "probabilities"]
"""The outputs of a file: the network's logits, or their softmax."""
