"""The recipe and its tables, validated as a whole before any work."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationInfo, model_validator
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
from edgekd.recipe.table import Table, one_of, refused
from edgekd.recipe.training import Distill, Training


def _has_stage(value: Any, info: ValidationInfo) -> Any:
    """Refuses a table whose stage does not exist; a table is never ignored."""
    if value is not None and info.context and info.field_name not in info.context.stages:
        raise refused(str(info.field_name), "a recipe without this table")
    return value


def _once(entries: list[TargetEntry]) -> list[TargetEntry]:
    names = [entry.name for entry in entries]
    if len(set(names)) < len(names):
        raise PydanticCustomError("twice", "each target only once", {})
    return entries


class DataSource(Table):
    """The source of the training, validation and test data."""

    load: Annotated[
        str, Field(description="FILE.py:CALLABLE or PACKAGE:CALLABLE that returns edgekd.Data.")
    ]
    options: Annotated[dict[str, Any], Field(description="Keyword arguments of the callable.")] = (
        Field(default_factory=dict)
    )


class TeacherTable(Table):
    """The larger network that the student imitates."""

    load: Annotated[
        str,
        Field(
            description="FILE.py:CALLABLE or PACKAGE:CALLABLE that returns a torch module; or "
            "a model file or a table of outputs."
        ),
    ]
    weights: Annotated[
        str | None,
        Field(description="A .safetensors file with the trained weights, relative to the recipe."),
    ] = None
    options: Annotated[dict[str, Any], Field(description="Keyword arguments of the callable.")] = (
        Field(default_factory=dict)
    )
    train: Annotated[Training | None, Field(description="Train the teacher first.")] = None


class Student(Table):
    """The smaller network that ships."""

    load: Annotated[
        str,
        Field(
            description="FILE.py:CALLABLE or PACKAGE:CALLABLE that returns a torch module; or "
            '"teacher" to derive it from the teacher.'
        ),
    ]
    weights: Annotated[
        str | None, Field(description="A .safetensors file with the initial weights.")
    ] = None
    options: Annotated[dict[str, Any], Field(description="Keyword arguments of the callable.")] = (
        Field(default_factory=dict)
    )
    blocks: Annotated[
        str | None, Field(description="Derived student: module path of the list of blocks.")
    ] = None
    every: Annotated[int, Field(ge=2, description="Derived student: every n-th block is kept.")] = 2
    width: Annotated[
        float | None,
        Field(gt=0, lt=1, description="Derived student: fraction of the channels that is kept."),
    ] = None
    dynamic: Annotated[dict[str, Range], Field(description="Dynamic dimensions by name.")] = Field(
        default_factory=dict
    )

    @property
    def dynamic_dims(self) -> tuple[DynamicDim, ...]:
        """The dynamic dimensions that `dynamic` declares."""
        return tuple(
            DynamicDim(name, each.min, each.max, each.axes) for name, each in self.dynamic.items()
        )

    @property
    def derived(self) -> bool:
        """Whether the student is derived from the teacher."""
        return self.load == "teacher"

    @model_validator(mode="after")
    def _refuse_keys_without_effect(self) -> Student:
        if not self.derived and (self.blocks is not None or self.width is not None):
            key = "blocks" if self.blocks is not None else "width"
            raise PydanticCustomError(
                "unknown_key",
                'load = "teacher" with {key}',
                {"key": key, "allowed": 'this key only with load = "teacher"', "nearest": None},
            )
        return self


class Export(Table):
    """How files are exported. [quantize] and the targets decide which files."""

    processes: Annotated[
        int | None,
        Field(
            ge=0,
            description="Number of converter processes. 0 converts in the process of edgekd, "
            "which a crash of a converter then ends. The default depends on cores "
            "and free memory.",
        ),
    ] = None
    timeout_s: Annotated[
        float, Field(gt=0, description="Time limit of a conversion, in seconds.")
    ] = 1800.0
    inputs: Annotated[
        dict[str, Raw],
        Field(
            description="Embedded preprocessing: for each input, the raw input that the files take."
        ),
    ] = Field(default_factory=dict)
    outputs: Annotated[
        Head,
        Field(
            description="Outputs of the files: logits, or probabilities with an embedded softmax."
        ),
    ] = "logits"
    io: Annotated[
        Io,
        Field(description="Type of the inputs and outputs of static int8 files (integer I/O)."),
    ] = "float32"

    @property
    def embeds(self) -> bool:
        """Whether preprocessing or postprocessing is embedded in the files."""
        return bool(self.inputs) or self.outputs != "logits"


class BudgetTable(Table):
    """The limits for a file on its target."""

    latency_p50_ms: Annotated[
        float | None, Field(gt=0, description="Median latency of an inference, in milliseconds.")
    ] = None
    latency_p90_ms: Annotated[
        float | None, Field(gt=0, description="90th percentile of the latency, in milliseconds.")
    ] = None
    latency_p99_ms: Annotated[
        float | None, Field(gt=0, description="99th percentile of the latency, in milliseconds.")
    ] = None
    size_bytes: Annotated[int | None, Field(gt=0, description="Size of the file, in bytes.")] = None
    peak_memory_bytes: Annotated[
        int | None,
        Field(gt=0, description="Peak memory of a process that runs only this file, in bytes."),
    ] = None
    instructions: Annotated[
        int | None,
        Field(gt=0, description="Instructions of an inference, on one thread of an emulated core."),
    ] = None

    def to_budget(self) -> Budget:
        """The same limits as the `Budget` that stages take."""
        return Budget(**self.model_dump())


class TargetEntry(Table):
    """A device, runtime and format that the recipe builds for."""

    name: Annotated[
        str,
        one_of("targets", or_path=True),
        Field(description="A target that edgekd targets lists, or the path of a profile (.toml)."),
    ]
    device: Annotated[
        str | None,
        Field(
            description="local, ssh://USER@HOST, adb://SERIAL, emulated://CORE or "
            "imported://FILE.json. The default is the profile's."
        ),
    ] = None
    threads: Annotated[
        int | None, Field(ge=1, description="Threads of the runtime. The default is the profile's.")
    ] = None
    opset: Annotated[int | None, Field(description="Opset of ONNX files, for an old runtime.")] = (
        None
    )
    channels_last: Annotated[
        bool | None,
        Field(
            description="Whether files take images with channels last. The default is the "
            "format's: true in LiteRT."
        ),
    ] = None
    budget: Annotated[BudgetTable, Field(description="Limits for a file on this target.")] = (
        BudgetTable()
    )
    prefer: Annotated[
        Prefer,
        Field(
            description="Which of the candidates that pass ships: the most accurate, fastest "
            "or smallest."
        ),
    ] = "accuracy"
    required: Annotated[
        bool, Field(description="Whether the run fails if this target cannot be judged here.")
    ] = True


class Recipe(Table):
    """The keys outside of any table, and the tables."""

    name: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
            description="Name of the runs and of the files that ship.",
        ),
    ]
    version: Annotated[
        str, Field(description="Version of the files that ship; a bundle needs three numbers.")
    ] = "0.0.0"
    task: Annotated[
        str,
        one_of("tasks"),
        Field(
            description="Kind of problem, which defines loss, metrics and agreement: "
            "classification, regression, embedding, segmentation, "
            "token-classification, an added task, or FILE.py:CALLABLE."
        ),
    ] = "classification"
    seed: Annotated[int, Field(ge=0, lt=2**32, description="Seed of all random numbers.")] = 0
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
    def _metric_of_the_task(self, info: ValidationInfo) -> Recipe:
        metrics = info.context.tasks.get(self.task, {}) if info.context else {}
        return self.model_copy(update={"accept": self.accept.of_task(self.task, metrics)})

    @model_validator(mode="after")
    def _refuse_an_equal_student(self) -> Recipe:
        student = self.student
        if student.derived and student.blocks is None and student.width is None and not self.prune:
            raise PydanticCustomError(
                "missing",
                "blocks or width, to derive a smaller student from the teacher, or a [prune] table",
                {"key": "student.blocks"},
            )
        return self

    @model_validator(mode="after")
    def _require_a_teacher(self) -> Recipe:
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
                "a [teacher] table, which [distill], [prune], [student] or [route] needs",
                {"key": "teacher"},
            )
        if learns_from != "float" and (self.teacher is None or self.export.inputs):
            raise PydanticCustomError(
                "no_teacher_there",
                '"float"; another teacher needs a [teacher] table and no [export.inputs]',
                {"key": "quantize.qat_from"},
            )
        return self


# The keys are written out above for editors; they must be those of `Budget`.
assert set(BudgetTable.model_fields) == {entry.name for entry in fields(Budget)}
