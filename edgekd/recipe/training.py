"""The tables of a recipe that say how a network is trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, PrivateAttr, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from edgekd.errors import listed, nearest
from edgekd.recipe.table import Part, one_of


class Optimizer(Part):
    """How weights follow gradients."""

    name: Annotated[Literal["adamw", "adam", "sgd"], Field(description="of torch.optim")] = "adamw"
    learning_rate: Annotated[float, Field(gt=0, description="at its largest")] = 2e-3
    weight_decay: Annotated[float, Field(ge=0, description="of adamw apart from the gradient")] = (
        1e-2
    )
    momentum: Annotated[float, Field(ge=0, lt=1, description="of sgd")] = 0.9


class Training(Part):
    """One training: of the teacher, or of the student by its teacher."""

    epochs: Annotated[int, Field(ge=1, description="over the training split")]
    batch_size: Annotated[int, Field(ge=1, description="over all processes")] = 128
    optimizer: Annotated[Optimizer, Field(description="how weights follow gradients")] = Optimizer()
    schedule: Annotated[
        Literal["cosine", "constant"],
        Field(description="of the learning rate, after a linear warm-up over 5 % of the steps"),
    ] = "cosine"
    clip_norm: Annotated[float, Field(gt=0, description="largest norm of the gradient")] = 5.0
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"],
        Field(description="of the network's arithmetic under autocast; losses are in fp32"),
    ] = "fp32"
    channels_last: Annotated[
        bool, Field(description="images are laid out as NHWC in memory while training")
    ] = False
    compile: Annotated[
        bool, Field(description="torch.compile; pays after some thousands of steps")
    ] = False


class Loss(Part):
    """One term of the distillation loss; further keys are options of the method."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)

    method: Annotated[
        str,
        one_of("losses"),
        Field(description="hard, a name of edgekd.losses, or file.py:callable"),
    ]
    weight: Annotated[float, Field(ge=0, description="in the sum of the losses")] = 1.0
    warmup_epochs: Annotated[
        int, Field(ge=0, description="epochs over which the weight grows from 0")
    ] = 0
    source: Annotated[
        Literal["teacher", "student"],
        Field(description="whose tensors are learnt from; the student's own: self-distillation"),
    ] = "teacher"
    student_layer: Annotated[
        str | list[str] | None,
        Field(description="output, or module path, of the student that is compared"),
    ] = None
    teacher_layer: Annotated[
        str | list[str] | None, Field(description="the same of the teacher, or of `source`")
    ] = None
    projector: Annotated[
        Literal["auto", "none", "linear", "regressor", "generative"],
        Field(
            description="trained to give the student's feature the teacher's shape, then dropped"
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
                raise PydanticCustomError("missing", f"a value for {self.method}", {"key": key})
        for key in self.options:
            if info.context and key not in known:
                allowed = [*known, *Loss.model_fields]
                raise PydanticCustomError(
                    "unknown_key",
                    "one of {allowed}",
                    {"allowed": listed(allowed), "nearest": nearest(key, allowed), "key": key},
                )
        return self


class MoreTeacher(Part):
    """A further network that is imitated, beside `[teacher]`."""

    load: Annotated[str, Field(description="as of [teacher]")]
    weights: Annotated[str | None, Field(description="as of [teacher]")] = None
    options: Annotated[dict[str, Any], Field(description="as of [teacher]")] = Field(
        default_factory=dict
    )
    weight: Annotated[float, Field(gt=0, description="against 1 of the first teacher")] = 1.0


class Distill(Training):
    """How the student learns from its teacher."""

    losses: Annotated[list[Loss], Field(min_length=1, description="the terms that are summed")]
    teacher_outputs: Annotated[
        Literal["live", "cached"],
        Field(description="ask the teacher at every step, or keep its outputs for each view"),
    ] = "cached"
    views: Annotated[
        int,
        Field(ge=1, description="augmented views of each sample that are cached, then repeated"),
    ] = 8
    cache_format: Annotated[
        Literal["int8", "top-k", "fp16", "fp32"],
        Field(description="of cached outputs: int8 codes and a range a row, or the k largest"),
    ] = "int8"
    cache_top_k: Annotated[int, Field(ge=1, description="k of top-k")] = 16
    more_teachers: Annotated[
        list[MoreTeacher], Field(description="their outputs join those of [teacher]")
    ] = Field(default_factory=list)
    combine: Annotated[
        Literal["weighted", "best"],
        Field(description="mean of the teachers' probabilities, or the best teacher per sample"),
    ] = "weighted"
    generations: Annotated[
        int, Field(ge=1, description="students in turn, each the teacher of the next")
    ] = 1
    devices: Annotated[int, Field(ge=1, description="processes on this machine, a device each")] = 1
    nodes: Annotated[int, Field(ge=1, description="machines; start them with torchrun")] = 1

    @property
    def needs_teacher(self) -> bool:
        """Whether any loss learns from a teacher."""
        return any(loss.method != "hard" and loss.source == "teacher" for loss in self.losses)
