"""The recipe: what a user asks for, validated whole before any work."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import PydanticCustomError

from edgekd.errors import Fault, RecipeError
from edgekd.faults import validation_faults
from edgekd.folding import Head, Raw
from edgekd.packaging import Bundle
from edgekd.part import Frac, Known, Part, one_of, refused
from edgekd.precisions import Quantize
from edgekd.sizes import FreeSize, Range
from edgekd.target import Budget, Prefer
from edgekd.toml import parse_value, read_toml
from edgekd.training import Distill, Training


def _has_stage(value: Any, info: ValidationInfo) -> Any:
    """Refuses a section whose stage does not exist: a section is never ignored."""
    if value is not None and info.context and info.field_name not in info.context.stages:
        raise refused(str(info.field_name), "a recipe without it")
    return value


def _once(entries: list[TargetEntry]) -> list[TargetEntry]:
    names = [entry.name for entry in entries]
    if len(set(names)) < len(names):
        raise PydanticCustomError("twice", "each target once", {})
    return entries


class DataSource(Part):
    """Where the data comes from."""

    load: str
    options: dict[str, Any] = Field(default_factory=dict)


class Teacher(Part):
    """The network that is imitated."""

    load: str
    weights: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    train: Training | None = None


class Student(Part):
    """The network that ships."""

    load: Annotated[str, Field(description='a reference, or "teacher": derived from it')]
    weights: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    blocks: Annotated[
        str | None, Field(description="of a derived one: module path of the list of its blocks")
    ] = None
    every: Annotated[
        int, Field(ge=2, description="of a derived one: every so manieth block is kept")
    ] = 2
    width: Annotated[
        float | None, Field(gt=0, lt=1, description="of a derived one: channels kept, a share")
    ] = None

    dynamic: Annotated[
        dict[str, Range], Field(description="sizes that may differ from call to call, by name")
    ] = Field(default_factory=dict)

    @property
    def free_sizes(self) -> tuple[FreeSize, ...]:
        """What `dynamic` says."""
        return tuple(
            FreeSize(name, each.min, each.max, each.axes) for name, each in self.dynamic.items()
        )

    @property
    def derived(self) -> bool:
        """Whether it is made from the teacher."""
        return self.load == "teacher"

    @model_validator(mode="after")
    def _derived_from_something(self) -> Student:
        if not self.derived and (self.blocks is not None or self.width is not None):
            key = "blocks" if self.blocks is not None else "width"
            raise PydanticCustomError(
                "unknown_key",
                'load = "teacher" with {key}',
                {"key": key, "allowed": 'it only with load = "teacher"', "nearest": None},
            )
        return self


class Prune(Part):
    """What is removed from the student."""

    method: Literal["structured", "unstructured", "n-m"] = "structured"
    keep: Annotated[float, Field(gt=0, le=1, description="of what `measure` counts, a share")]
    measure: Annotated[
        Literal["macs", "parameters", "latency"],
        Field(description="latency: of the exported file on `target`, against the whole one's"),
    ] = "macs"
    target: Annotated[
        str | None, Field(description="of the latency; the first one with its device at hand")
    ] = None
    importance: Annotated[
        Literal["l1", "l2", "bn-scale", "taylor", "hessian", "random"],
        Field(description="of channels and heads: those of least go"),
    ] = "l2"
    scope: Annotated[
        Literal["layer", "global", "sensitivity"],
        Field(description="each layer's share alike, all ranked together, or by what each costs"),
    ] = "layer"
    blocks: Annotated[
        str | None, Field(description="module path of a list: whole blocks go, not channels")
    ] = None
    pattern: Annotated[
        str, Field(pattern=r"^[1-9]\d*:[1-9]\d*$", description="of n-m: kept of each so many")
    ] = "2:4"
    round_to: Annotated[
        int | None,
        Field(ge=1, description="channels kept are a multiple; that of the targets' profiles"),
    ] = None
    ignore: Annotated[list[str], Field(description="module paths that stay whole")] = Field(
        default_factory=list
    )
    steps: Annotated[
        int, Field(ge=1, description="in which it is removed, recovering after each")
    ] = 1
    recover_epochs: Annotated[
        int, Field(ge=0, description="of all steps, trained with the distill losses")
    ] = 0
    recover_learning_rate: Annotated[
        float | None, Field(gt=0, description="that of [distill] where it is not given")
    ] = None
    recover_from: Annotated[
        Literal["both", "unpruned", "teacher"], Field(description="who teaches it then")
    ] = "both"
    scan: Annotated[
        bool, Field(description="records what removing channels of each layer alone costs")
    ] = False

    @property
    def n_of_m(self) -> tuple[int, int]:
        """The numbers of `pattern`."""
        n, _, m = self.pattern.partition(":")
        return int(n), int(m)

    @model_validator(mode="after")
    def _no_key_is_ignored(self) -> Prune:
        for key, (applies, where) in self._applicable().items():
            default = type(self).model_fields[key].get_default(call_default_factory=True)
            if not applies and getattr(self, key) != default:
                raise PydanticCustomError(
                    "unknown_key",
                    "{allowed}",
                    {"key": key, "allowed": f"it only with {where}", "nearest": None},
                )
        if self.steps > max(1, self.recover_epochs):
            raise PydanticCustomError(
                "too_few_epochs",
                "an epoch of recovery after each of the {steps} steps, or steps = 1",
                {"key": "recover_epochs", "steps": self.steps},
            )
        n, m = self.n_of_m
        if self.method == "n-m" and (n >= m or abs(self.keep - n / m) > 1e-6):
            raise PydanticCustomError(
                "no_pattern",
                "keep = {share} for {pattern}: n kept of m, fewer than all",
                {"key": "keep", "share": f"{n / m:g}", "pattern": self.pattern},
            )
        return self

    def _applicable(self) -> dict[str, tuple[bool, str]]:
        """By key, whether it has a meaning beside the others, and with which it has."""
        channels = self.method == "structured" and self.blocks is None
        latency = self.measure == "latency"
        recovers = self.recover_epochs > 0
        return {
            "measure": (not latency or self.method == "structured", 'method = "structured"'),
            "target": (latency, 'measure = "latency"'),
            "importance": (channels, 'method = "structured", and without blocks'),
            "scope": (
                channels or (self.method == "unstructured" and self.scope == "global"),
                'method = "structured", or "global" with "unstructured"',
            ),
            "blocks": (self.method == "structured", 'method = "structured"'),
            "pattern": (self.method == "n-m", 'method = "n-m"'),
            "round_to": (channels, 'method = "structured", and without blocks'),
            "ignore": (self.blocks is None, "channels or weights, not blocks"),
            "steps": (self.method != "n-m", "a method that has shares between"),
            "recover_learning_rate": (recovers, "recover_epochs"),
            "recover_from": (recovers, "recover_epochs"),
            "scan": (channels, 'method = "structured", and without blocks'),
        }


class Export(Part):
    """How files are written; what is written is said by the targets and [quantize]."""

    processes: Annotated[
        int | None,
        Field(
            ge=0,
            description="that convert at once; 0: none but edgekd's own, which a converter that "
            "crashes then takes along; as many as cores and free memory allow",
        ),
    ] = None
    timeout_s: Annotated[float, Field(gt=0, description="of a conversion, seconds")] = 1800.0
    inputs: Annotated[
        dict[str, Raw], Field(description="by input, what the files take in its place")
    ] = Field(default_factory=dict)
    outputs: Annotated[Head, Field(description="what the files give of the logits")] = "logits"

    @property
    def folds(self) -> bool:
        """Whether the files take or give anything else than the network."""
        return bool(self.inputs) or self.outputs != "logits"


class Accept(Part):
    """What accuracy may be lost."""

    metric: Annotated[str, one_of("metrics")] = "accuracy"
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
    instructions: Annotated[
        int | None,
        Field(gt=0, description="of an inference, on one thread of an emulated core"),
    ] = None

    def to_budget(self) -> Budget:
        """The same limits as the type that stages take."""
        return Budget(**self.model_dump())


class TargetEntry(Part):
    """A device the recipe is for."""

    name: Annotated[str, one_of("targets", or_path=True)]
    device: str | None = None
    threads: Annotated[int, Field(ge=1)] | None = None
    opset: Annotated[int | None, Field(description="of ONNX files, for an old runtime")] = None
    channels_last: Annotated[bool | None, Field(description="of images; true in LiteRT")] = None
    budget: BudgetPart = BudgetPart()
    prefer: Prefer = "accuracy"
    required: bool = True


class Recipe(Part):
    """A whole recipe."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    version: str = "0.0.0"
    task: Annotated[str, one_of("tasks")] = "classification"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    data: DataSource
    teacher: Teacher | None = None
    student: Student
    distill: Annotated[Distill | None, AfterValidator(_has_stage)] = None
    prune: Annotated[Prune | None, AfterValidator(_has_stage)] = None
    quantize: Quantize = Quantize()
    export: Export = Export()
    accept: Accept = Accept()
    targets: Annotated[list[TargetEntry], Field(min_length=1), AfterValidator(_once)]
    bundle: Annotated[Bundle | None, AfterValidator(_has_stage)] = None

    @model_validator(mode="after")
    def _a_derived_student_is_smaller(self) -> Recipe:
        student = self.student
        if student.derived and student.blocks is None and student.width is None and not self.prune:
            raise PydanticCustomError(
                "missing",
                "blocks or width, to derive a student from the teacher, or a [prune]",
                {"key": "student.blocks"},
            )
        return self

    @model_validator(mode="after")
    def _there_is_a_teacher(self) -> Recipe:
        distill, prune, learns_from = self.distill, self.prune, self.quantize.qat_from
        recovers = prune is not None and prune.recover_epochs > 0
        needed = (
            (distill and distill.needs_teacher)
            or self.student.derived
            or (recovers and prune is not None and prune.recover_from == "teacher")
        )
        if needed and self.teacher is None:
            raise PydanticCustomError(
                "missing",
                "a [teacher] for [distill], [prune] or [student] to learn from",
                {"key": "teacher"},
            )
        if learns_from != "float" and (self.teacher is None or self.export.inputs):
            raise PydanticCustomError(
                "no_teacher_there",
                '"float", or a [teacher] that takes what the files take: no [export.inputs]',
                {"key": "quantize.qat_from"},
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
assert set(BudgetPart.model_fields) == {entry.name for entry in fields(Budget)}
