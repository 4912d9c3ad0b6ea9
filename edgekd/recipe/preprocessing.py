"""The tables of a recipe that put preprocessing and postprocessing into the file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from edgekd.recipe.table import Part


class Raw(Part):
    """What a file takes in place of one of the network's inputs.

    The network's value is (value * scale - mean) / std, channel by channel.
    """

    dtype: Annotated[
        Literal["uint8", "float32"], Field(description="of the values that the file takes")
    ] = "uint8"
    layout: Annotated[
        Literal["nhwc", "nchw", "same"],
        Field(description="of an image's axes: channels last, as cameras give it, or first"),
    ] = "nhwc"
    scale: Annotated[float, Field(gt=0, description="1/255 where the network saw 0 to 1")] = 1.0
    mean: Annotated[list[float], Field(min_length=1, description="by channel, or one for all")] = (
        Field(default_factory=lambda: [0.0])
    )
    std: Annotated[
        list[Annotated[float, Field(gt=0)]],
        Field(min_length=1, description="by channel, or one for all"),
    ] = Field(default_factory=lambda: [1.0])


Head = Literal["logits", "probabilities"]
"""What a file gives of a network's logits: them, or their softmax."""
