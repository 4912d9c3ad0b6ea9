"""The recipe: what a user asks for, validated whole before any work."""

from __future__ import annotations

import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import PydanticCustomError

from edgekd.errors import Fault, RecipeError, listed, nearest
from edgekd.faults import validation_faults
from edgekd.scheme import SCHEMES
from edgekd.target import Budget, Prefer
from edgekd.toml import parse_value, read_toml


@dataclass(frozen=True)
class Known:
    """The names a recipe may use, which rooms above this file hold.

    Attributes:
        stages: the stages there are; a section without its stage is refused, not ignored.
        losses: the methods of `distill.losses`, each with its options, and whether it needs them.
        tasks: the tasks.
        metrics: the metrics of all tasks.
        targets: the shipped target profiles.
        calibrations: the shipped calibration sets.
    """

    stages: Collection[str] = ()
    losses: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)
    tasks: Collection[str] = ()
    metrics: Collection[str] = ()
    targets: Collection[str] = ()
    calibrations: Collection[str] = ()


def _one_of(names: str, *, or_path: bool = False) -> AfterValidator:
    """Checks a string against a field of `Known`, where the validation is given one."""

    def check(value: str, info: ValidationInfo) -> str:
        known = getattr(info.context, names) if info.context else None
        if known is None or value in known or (or_path and value.endswith(".toml")):
            return value
        raise _unknown_name(value, list(known))

    return AfterValidator(check)


def _unknown_name(value: str, known: list[str]) -> PydanticCustomError:
    return PydanticCustomError(
        "unknown_name",
        "one of {allowed}",
        {"allowed": listed(sorted(known)), "nearest": nearest(value, known)},
    )


def _refused(key: str, allowed: str) -> PydanticCustomError:
    return PydanticCustomError("no_stage", "{allowed}", {"allowed": allowed, "refused": key})


def _has_stage(value: Any, info: ValidationInfo) -> Any:
    """Refuses a section whose stage does not exist: a section is never ignored."""
    if value is not None and info.context and info.field_name not in info.context.stages:
        raise _refused(str(info.field_name), "a recipe without it")
    return value


def _no_training(epochs: int, info: ValidationInfo) -> int:
    if epochs and info.context and "train-quantized" not in info.context.stages:
        raise _refused("quantize.qat_epochs", "0")
    return epochs


def _once(entries: list[TargetEntry]) -> list[TargetEntry]:
    names = [entry.name for entry in entries]
    if len(set(names)) < len(names):
        raise PydanticCustomError("twice", "each target once", {})
    return entries


class Part(BaseModel):
    """A table of the recipe: no key is ignored, no value is coerced."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


Frac = Annotated[float, Field(ge=0, le=1)]
SchemeName = Literal["fp32", "fp16", "int8", "int8-dynamic", "int8-weights", "int4-weights"]


class Optimizer(Part):
    """How weights follow gradients."""

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    momentum: Annotated[float, Field(ge=0, lt=1, description="of sgd")] = 0.9


class Training(Part):
    """One training: of the teacher, or of the student by its teacher."""

    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)] = 128
    optimizer: Optimizer = Optimizer()
    schedule: Annotated[
        Literal["cosine", "constant"],
        Field(description="of the learning rate, after a linear warm-up over 5 % of the steps"),
    ] = "cosine"
    clip_norm: Annotated[float, Field(gt=0, description="largest norm of the gradient")] = 5.0


class Loss(Part):
    """One term of the distillation loss; further keys are options of the method."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)

    method: Annotated[str, _one_of("losses"), Field(description="hard, or a name of edgekd.losses")]
    weight: Annotated[float, Field(ge=0)] = 1.0
    warmup_epochs: Annotated[
        int, Field(ge=0, description="epochs over which the weight grows from 0")
    ] = 0

    @property
    def options(self) -> dict[str, Any]:
        """The method's own keyword arguments."""
        return dict(self.model_extra or {})

    @model_validator(mode="after")
    def _options_are_known(self, info: ValidationInfo) -> Loss:
        known: Mapping[str, bool] = info.context.losses.get(self.method, {}) if info.context else {}
        for key, needed in known.items():
            if needed and key not in self.options:
                raise PydanticCustomError("missing", f"a value for {self.method}", {"key": key})
        for key in self.options:
            if info.context and key not in known:
                allowed = [*known, "method", "weight", "warmup_epochs"]
                raise PydanticCustomError(
                    "unknown_key",
                    "one of {allowed}",
                    {"allowed": listed(allowed), "nearest": nearest(key, allowed), "key": key},
                )
        return self


class Distill(Training):
    """How the student learns from its teacher."""

    losses: Annotated[list[Loss], Field(min_length=1)]
    teacher_outputs: Annotated[
        Literal["live", "cached"],
        Field(description="ask the teacher at every step, or keep its outputs for each view"),
    ] = "cached"
    views: Annotated[
        int,
        Field(ge=1, description="augmented views of each sample that are cached, then repeated"),
    ] = 8


class DataSource(Part):
    """Where the data comes from."""

    load: str
    options: dict[str, Any] = {}


class Teacher(Part):
    """The network that is imitated."""

    load: str
    weights: str | None = None
    options: dict[str, Any] = {}
    train: Training | None = None


class Student(Part):
    """The network that ships."""

    load: str
    weights: str | None = None
    options: dict[str, Any] = {}


class Prune(Part):
    """What is removed from the student."""

    method: Literal["structured", "unstructured", "n-m"] = "structured"
    keep: Annotated[float, Field(gt=0, le=1)]
    measure: Literal["macs", "parameters", "latency"] = "macs"
    recover_epochs: Annotated[int, Field(ge=0)] = 0


class Quantize(Part):
    """The precisions that are tried."""

    schemes: Annotated[list[SchemeName], Field(min_length=1)] = ["fp32"]
    calibration: Annotated[str, _one_of("calibrations", or_path=True)] = "random-128"
    qat_epochs: Annotated[int, Field(ge=0), AfterValidator(_no_training)] = 0


class Accept(Part):
    """What accuracy may be lost."""

    metric: Annotated[str, _one_of("metrics")] = "accuracy"
    max_drop: Annotated[
        Frac, Field(description="of the student, and of what ships, against the teacher, absolute")
    ] = 0.01
    min_agreement: Annotated[
        Frac, Field(description="share of samples with the same largest class as the torch student")
    ] = 0.99


class BudgetPart(Part):
    """The most an artifact may take on its target."""

    latency_p50_ms: Annotated[float, Field(gt=0)] | None = None
    latency_p90_ms: Annotated[float, Field(gt=0)] | None = None
    latency_p99_ms: Annotated[float, Field(gt=0)] | None = None
    size_bytes: Annotated[int, Field(gt=0)] | None = None
    peak_memory_bytes: Annotated[int, Field(gt=0)] | None = None

    def to_budget(self) -> Budget:
        """The same limits as the type that stages take."""
        return Budget(**self.model_dump())


class TargetEntry(Part):
    """A device the recipe is for."""

    name: Annotated[str, _one_of("targets", or_path=True)]
    device: str | None = None
    threads: Annotated[int, Field(ge=1)] | None = None
    budget: BudgetPart = BudgetPart()
    prefer: Prefer = "accuracy"
    required: bool = True


class Bundle(Part):
    """What is handed to the app build."""

    kinds: Annotated[list[Literal["folder", "android", "swift", "linux"]], Field(min_length=1)]
    android: dict[str, str] = {}


class Recipe(Part):
    """A whole recipe."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    version: str = "0.0.0"
    task: Annotated[str, _one_of("tasks")] = "classification"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    data: DataSource
    teacher: Teacher | None = None
    student: Student
    distill: Annotated[Distill | None, AfterValidator(_has_stage)] = None
    prune: Annotated[Prune | None, AfterValidator(_has_stage)] = None
    quantize: Quantize = Quantize()
    accept: Accept = Accept()
    targets: Annotated[list[TargetEntry], Field(min_length=1), AfterValidator(_once)]
    bundle: Annotated[Bundle | None, AfterValidator(_has_stage)] = None

    @model_validator(mode="after")
    def _distill_has_a_teacher(self) -> Recipe:
        if self.distill and self.teacher is None:
            raise PydanticCustomError(
                "missing", "a [teacher] for [distill] to learn from", {"key": "teacher"}
            )
        return self


def load_recipe(path: Path, known: Known | None = None, settings: Collection[str] = ()) -> Recipe:
    """The recipe in `path`, with `settings` ("key.path=value" each) put over it.

    Args:
        known: the names it may use; without it, names are not checked.

    Raises:
        RecipeError: the file cannot be read, or anything in it is wrong; all faults are told.
    """
    document = read_toml(path)
    for setting in settings:
        _put(document, setting)
    return parse_recipe(document, str(path), known)


def parse_recipe(document: dict[str, Any], source: str, known: Known | None = None) -> Recipe:
    """The recipe that `document` holds; `source` is its name in messages.

    Raises:
        RecipeError: anything in it is wrong; all faults are told.
    """
    try:
        return Recipe.model_validate(document, context=known)
    except ValidationError as error:
        raise RecipeError(*validation_faults(error, Recipe, document, source)) from None


def _put(document: dict[str, Any], setting: str) -> None:
    """Puts "distill.epochs=3" or "targets.0.prefer=size" into `document`."""
    key, equals, text = setting.partition("=")
    steps = key.split(".")
    place: Any = document
    try:
        if not equals or not all(steps):
            raise KeyError(key)
        for step in steps[:-1]:
            place = place[int(step)] if isinstance(place, list) else place.setdefault(step, {})
        if isinstance(place, list):
            place[int(steps[-1])] = parse_value(text)
        else:
            place[steps[-1]] = parse_value(text)
    except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
        raise RecipeError(
            Fault(
                what="A setting cannot be put into the recipe.",
                at=f"--set {setting}",
                got=repr(setting),
                expected="KEY=VALUE with a key path such as distill.epochs or targets.0.prefer",
                fix="write it like --set distill.epochs=3",
            )
        ) from error


# The recipe's schemes and budget are spelled out above for editors; they follow these.
assert set(typing.get_args(SchemeName)) == set(SCHEMES)
assert set(BudgetPart.model_fields) == {entry.name for entry in fields(Budget)}
