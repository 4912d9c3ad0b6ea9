"""The recipe: what a user asks for, validated whole before any work."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    Field,
    ValidationInfo,
    model_validator,
)
from pydantic_core import PydanticCustomError

from edgekd.artifacts.quantization_params import Io
from edgekd.artifacts.signature import DynamicDim
from edgekd.artifacts.target import Budget, Prefer
from edgekd.recipe.acceptance import Accept
from edgekd.recipe.benchmark import Benchmark
from edgekd.recipe.bundle import Bundle
from edgekd.recipe.dynamic_shapes import Range
from edgekd.recipe.preprocessing import Head, Raw
from edgekd.recipe.pruning import Prune
from edgekd.recipe.quantization import Quantize
from edgekd.recipe.routing import Route
from edgekd.recipe.table import Part, one_of, refused
from edgekd.recipe.training import Distill, Training


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

    load: Annotated[str, Field(description="a callable that returns edgekd.Data")]
    options: Annotated[dict[str, Any], Field(description="its keyword arguments")] = Field(
        default_factory=dict
    )


class TeacherTable(Part):
    """The network that is imitated."""

    load: Annotated[
        str,
        Field(description="a callable that returns a module; or a file, whose outputs are asked"),
    ]
    weights: Annotated[
        str | None, Field(description="a .safetensors file, relative to the recipe")
    ] = None
    options: Annotated[dict[str, Any], Field(description="keyword arguments of the callable")] = (
        Field(default_factory=dict)
    )
    train: Annotated[Training | None, Field(description="trains it here first")] = None


class Student(Part):
    """The network that ships."""

    load: Annotated[str, Field(description='a reference, or "teacher": derived from it')]
    weights: Annotated[str | None, Field(description="a .safetensors file to begin with")] = None
    options: Annotated[dict[str, Any], Field(description="keyword arguments of the callable")] = (
        Field(default_factory=dict)
    )
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
    def free_sizes(self) -> tuple[DynamicDim, ...]:
        """What `dynamic` says."""
        return tuple(
            DynamicDim(name, each.min, each.max, each.axes) for name, each in self.dynamic.items()
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
    io: Annotated[
        Io,
        Field(description="what files in static int8 have in place of float32 inputs and outputs"),
    ] = "float32"

    @property
    def folds(self) -> bool:
        """Whether the files take or give anything else than the network."""
        return bool(self.inputs) or self.outputs != "logits"


class BudgetPart(Part):
    """The most an artifact may take on its target."""

    latency_p50_ms: Annotated[
        float | None, Field(gt=0, description="of an inference, the median")
    ] = None
    latency_p90_ms: Annotated[float | None, Field(gt=0, description="of an inference")] = None
    latency_p99_ms: Annotated[float | None, Field(gt=0, description="of an inference")] = None
    size_bytes: Annotated[int | None, Field(gt=0, description="of the file")] = None
    peak_memory_bytes: Annotated[
        int | None, Field(gt=0, description="of a process that holds only it")
    ] = None
    instructions: Annotated[
        int | None,
        Field(gt=0, description="of an inference, on one thread of an emulated core"),
    ] = None

    def to_budget(self) -> Budget:
        """The same limits as the type that stages take."""
        return Budget(**self.model_dump())


class TargetEntry(Part):
    """A device the recipe is for."""

    name: Annotated[
        str,
        one_of("targets", or_path=True),
        Field(description="a profile in targets/, or the path of one"),
    ]
    device: Annotated[
        str | None,
        Field(
            description="local, ssh://user@host, adb://SERIAL, emulated://CORE; over the profile's"
        ),
    ] = None
    threads: Annotated[
        int | None, Field(ge=1, description="of the runtime; over the profile's")
    ] = None
    opset: Annotated[int | None, Field(description="of ONNX files, for an old runtime")] = None
    channels_last: Annotated[bool | None, Field(description="of images; true in LiteRT")] = None
    budget: Annotated[BudgetPart, Field(description="what it may take there")] = BudgetPart()
    prefer: Annotated[Prefer, Field(description="which of the candidates that pass ships")] = (
        "accuracy"
    )
    required: Annotated[
        bool, Field(description="false: a target that cannot be judged here does not fail the run")
    ] = True


class Recipe(Part):
    """A whole recipe."""

    name: Annotated[
        str,
        Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="of runs and of what ships"),
    ]
    version: Annotated[str, Field(description="of what ships; three numbers for a bundle")] = (
        "0.0.0"
    )
    task: Annotated[str, one_of("tasks"), Field(description="what outputs and labels are")] = (
        "classification"
    )
    seed: Annotated[int, Field(ge=0, lt=2**32, description="of everything random")] = 0
    data: DataSource
    teacher: TeacherTable | None = None
    student: Student
    distill: Annotated[Distill | None, AfterValidator(_has_stage)] = None
    prune: Annotated[Prune | None, AfterValidator(_has_stage)] = None
    quantize: Quantize = Quantize()
    export: Export = Export()
    benchmark: Benchmark = Benchmark()
    accept: Accept = Accept()
    targets: Annotated[list[TargetEntry], Field(min_length=1), AfterValidator(_once)]
    route: Annotated[Route | None, AfterValidator(_has_stage)] = None
    bundle: Annotated[Bundle | None, AfterValidator(_has_stage)] = None

    @model_validator(mode="after")
    def _the_metric_is_of_the_task(self, info: ValidationInfo) -> Recipe:
        metrics = info.context.tasks.get(self.task, {}) if info.context else {}
        return self.model_copy(update={"accept": self.accept.of_task(self.task, metrics)})

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
            self.route is not None
            or (distill and distill.needs_teacher)
            or self.student.derived
            or (recovers and prune is not None and prune.recover_from == "teacher")
        )
        if needed and self.teacher is None:
            raise PydanticCustomError(
                "missing",
                "a [teacher] for [distill], [prune], [student] or [route]",
                {"key": "teacher"},
            )
        if learns_from != "float" and (self.teacher is None or self.export.inputs):
            raise PydanticCustomError(
                "no_teacher_there",
                '"float", or a [teacher] that takes what the files take: no [export.inputs]',
                {"key": "quantize.qat_from"},
            )
        return self


# The recipe's schemes and budget are spelled out above for editors; they follow these.
assert set(BudgetPart.model_fields) == {entry.name for entry in fields(Budget)}
