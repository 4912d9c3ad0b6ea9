"""The tables of a recipe for training and distillation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, PrivateAttr, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from edgekd.errors import listed, nearest
from edgekd.recipe.table import Table, one_of


class Optimizer(Table):
    """The optimizer."""

    name: Annotated[
        Literal["adamw", "adam", "sgd"], Field(description="Optimizer of torch.optim.")
    ] = "adamw"
    learning_rate: Annotated[float, Field(gt=0, description="Peak learning rate.")] = 2e-3
    weight_decay: Annotated[
        float, Field(ge=0, description="Weight decay; adamw decouples it from the gradient.")
    ] = 1e-2
    momentum: Annotated[float, Field(ge=0, lt=1, description="Momentum of sgd.")] = 0.9


class Training(Table):
    """The training of a network."""

    epochs: Annotated[int, Field(ge=1, description="Passes over the training split.")]
    batch_size: Annotated[int, Field(ge=1, description="Samples per step, over all processes.")] = (
        128
    )
    optimizer: Annotated[Optimizer, Field(description="The optimizer.")] = Optimizer()
    schedule: Annotated[
        Literal["cosine", "constant"],
        Field(
            description="Schedule of the learning rate, after a linear warm-up over 5 % of "
            "the steps."
        ),
    ] = "cosine"
    clip_norm: Annotated[
        float,
        Field(gt=0, description="Largest norm of the gradient; longer gradients are scaled down."),
    ] = 5.0
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"],
        Field(description="Precision of the network under autocast; losses are computed in fp32."),
    ] = "fp32"
    channels_last: Annotated[
        bool, Field(description="Train with images in NHWC memory layout.")
    ] = False
    compile: Annotated[
        bool, Field(description="Use torch.compile, which pays off after some thousands of steps.")
    ] = False


class Loss(Table):
    """One term of the distillation loss. Further keys are options of the method."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)

    method: Annotated[
        str,
        one_of("losses"),
        Field(description="hard (the labels), a loss of the reference, or FILE.py:CALLABLE."),
    ]
    weight: Annotated[float, Field(ge=0, description="Weight in the sum of the losses.")] = 1.0
    warmup_epochs: Annotated[
        int, Field(ge=0, description="Epochs over which the weight grows from 0.")
    ] = 0
    source: Annotated[
        Literal["teacher", "student"],
        Field(description="Network that provides the targets; student is self-distillation."),
    ] = "teacher"
    student_layer: Annotated[
        str | list[str] | None,
        Field(description="Output or module path of the student that is compared."),
    ] = None
    teacher_layer: Annotated[
        str | list[str] | None,
        Field(
            description="Output or module path of the teacher (of source) that it is compared with."
        ),
    ] = None
    projector: Annotated[
        Literal["auto", "none", "linear", "regressor", "generative"],
        Field(
            description="Module that maps the student's feature to the teacher's shape; it is "
            "trained, and removed after training."
        ),
    ] = "auto"
    _folder: Path = PrivateAttr(default_factory=Path)

    @property
    def options(self) -> dict[str, Any]:
        """The method's own keyword arguments."""
        return dict(self.model_extra or {})

    @property
    def folder(self) -> Path:
        """The folder that a file in `method` is relative to: the recipe's, or the current one."""
        return self._folder

    @model_validator(mode="after")
    def _options_are_known(self, info: ValidationInfo) -> Loss:
        if info.context:
            self._folder = info.context.folder
        known: Mapping[str, bool] | None
        known = info.context.losses.get(self.method, {}) if info.context else {}
        if known is None:
            return self
        for key, needed in known.items():
            if needed and key not in self.options:
                raise PydanticCustomError(
                    "missing", f"a value, which the loss {self.method} needs", {"key": key}
                )
        for key in self.options:
            if info.context and key not in known:
                allowed = [*known, *Loss.model_fields]
                raise PydanticCustomError(
                    "unknown_key",
                    "one of {allowed}",
                    {"allowed": listed(allowed), "nearest": nearest(key, allowed), "key": key},
                )
        return self


class MoreTeacher(Table):
    """A further teacher beside [teacher]."""

    load: Annotated[str, Field(description="As in [teacher].")]
    weights: Annotated[str | None, Field(description="As in [teacher].")] = None
    options: Annotated[dict[str, Any], Field(description="As in [teacher].")] = Field(
        default_factory=dict
    )
    weight: Annotated[
        float, Field(gt=0, description="Weight relative to the first teacher, whose weight is 1.")
    ] = 1.0


class Distill(Training):
    """The distillation of the student, with all keys of a training."""

    losses: Annotated[
        list[Loss], Field(min_length=1, description="Terms of the loss, which are summed.")
    ]
    teacher_outputs: Annotated[
        Literal["live", "cached"],
        Field(
            description="live: run the teacher at every step. cached: run it once per view "
            "and cache the outputs."
        ),
    ] = "cached"
    views: Annotated[
        int,
        Field(
            ge=1,
            description="Augmented views of each sample whose teacher outputs are cached; "
            "they repeat.",
        ),
    ] = 8
    cache_format: Annotated[
        Literal["int8", "top-k", "fp16", "fp32"],
        Field(
            description="Storage of cached outputs: int8 codes with a range per row, the k "
            "largest, or floats."
        ),
    ] = "int8"
    cache_top_k: Annotated[
        int, Field(ge=1, description="Number of outputs that the cache format top-k stores.")
    ] = 16
    more_teachers: Annotated[
        list[MoreTeacher], Field(description="Further teachers, combined with [teacher].")
    ] = Field(default_factory=list)
    combine: Annotated[
        Literal["weighted", "best"],
        Field(
            description="How several teachers are combined: the weighted mean of their "
            "probabilities, or the best teacher per sample."
        ),
    ] = "weighted"
    generations: Annotated[
        int,
        Field(ge=1, description="Number of students in sequence; each is the teacher of the next."),
    ] = 1
    devices: Annotated[
        int, Field(ge=1, description="Processes on this machine, each with its own device.")
    ] = 1
    nodes: Annotated[int, Field(ge=1, description="Number of machines, started with torchrun.")] = 1

    @property
    def needs_teacher(self) -> bool:
        """Whether any loss needs a teacher."""
        return any(loss.method != "hard" and loss.source == "teacher" for loss in self.losses)
