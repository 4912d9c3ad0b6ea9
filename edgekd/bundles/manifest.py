"""What is in a bundle: `manifest.json`, its types, its JSON Schema, and how it is read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
)

from edgekd.errors import Fault, RecipeError
from edgekd.recipe.bundle import Android, Licences, Preprocessing
from edgekd.recipe.preprocessing import Raw
from edgekd.recipe.table import Frac
from edgekd.recipe.validation import validation_faults

MANIFEST = "manifest.json"
SCHEMA = "manifest.schema.json"
SCHEMA_VERSION = 1
"""Of this edgekd. It grows when a reader of the version before would misread the new one."""


def inside(path: str) -> str:
    """`path`, if it leads to a place inside the bundle.

    Raises:
        ValueError: it does not.
    """
    pure = PurePosixPath(path)
    if (
        not path
        or pure.is_absolute()
        or ".." in pure.parts
        or "\\" in path
        or ":" in path
        or pure.as_posix() != path
    ):
        raise ValueError(f"a path inside the bundle, its parts joined by /, not {path!r}")
    return path


def renamed_role(role: object) -> object:
    """`role` as it is named now: edgekd 0.1 called the network of a QAT model "quantized"."""
    return "qat" if role == "quantized" else role


Inside = Annotated[str, AfterValidator(inside)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$", description="64 hexadecimal digits")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""What becomes the name of a folder, a package or a class."""
Text = Annotated[str, Field(min_length=1)]
Dtype = Literal[
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64",
]  # fmt: skip


class Entry(BaseModel):
    """A table of the manifest: no key is ignored, no value is coerced."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Quantization(Entry):
    """Of a tensor of whole numbers: value = scale * (number - zero_point)."""

    scale: Annotated[float, Field(gt=0)]
    zero_point: int


class Tensor(Entry):
    """One input or output of a model."""

    name: Text
    shape: Annotated[
        list[Annotated[int, Field(ge=0)] | None],
        Field(description="batch first; null where it is free"),
    ]
    dtype: Annotated[Dtype, Field(description="that of the file, as numpy names it")]
    layout: Annotated[
        str | None, Field(description="axes as words, such as batch height width channels")
    ] = None
    meaning: Annotated[
        str | None, Field(description="what the values are, such as logits or probabilities")
    ] = None
    quantization: Annotated[
        Quantization | None, Field(description="null where the values are taken as they are")
    ] = None


class File(Entry):
    """One file of the bundle."""

    path: Inside
    sha256: Sha256
    size_bytes: Annotated[int, Field(ge=0)]


class Expected(Entry):
    """What an output must be, little-endian and row-major as `Tensor` says, samples first."""

    path: Inside
    max_abs_error: Annotated[
        float, Field(ge=0, description="how far each may lie off, of the numbers in the file")
    ]


class Golden(Entry):
    """Real inputs, and what the model made of them in its own runtime when it was bundled."""

    count: Annotated[int, Field(ge=1)]
    inputs: Annotated[dict[str, Inside], Field(description="by input; little-endian, row-major")]
    outputs: dict[str, Expected]


class Agreed(Entry):
    """How far the file was found to do what its network does; there may be more figures."""

    model_config = ConfigDict(extra="allow")
    metric: float | None = None
    smaller_is_better: Annotated[bool, Field(description="whether the metric is an error")] = False
    top1_agreement_frac: float | None = None
    task_agreement: Annotated[
        float | None, Field(description="the task's figure of it, 1 where all is the same")
    ] = None


class Measured(Entry):
    """How long an inference was found to take, and on what; there may be more figures."""

    model_config = ConfigDict(extra="allow")
    p50_ms: float | None = None
    p90_ms: float | None = None


class Evidence(Entry):
    """What the run found out about a model, and where."""

    evidence: Annotated[
        Literal["device", "host", "emulated", "reference"] | None,
        Field(description="where it ran"),
    ] = None
    agreement: Agreed | None = None
    measurement: Measured | None = None
    instructions: Annotated[
        int | None, Field(description="of one inference on one thread of an emulated core")
    ] = None
    notes: Annotated[
        list[str], Field(description="on what of the file its target does not run well")
    ] = Field(default_factory=list)


class ManifestShare(Entry):
    """What a threshold keeps of the samples that it was calibrated on, as shares."""

    threshold: Frac
    kept_frac: Frac
    agreement_frac: Frac
    low_frac: Annotated[float, Field(ge=0, le=1, description="lower bound of agreement_frac")]


class Routed(Entry):
    """Which answers an app keeps; for the others it asks the larger model."""

    threshold: Annotated[
        float | None,
        Field(ge=0, le=1, description="an answer is kept where its probability is over it"),
    ]
    why: Text
    agreement: Annotated[float, Field(description="with the teacher, of what is kept, at least")]
    confidence: Annotated[float, Field(description="with which that holds")]
    calibration_count: Annotated[int, Field(ge=1)]
    test_count: Annotated[int, Field(ge=1)]
    kept_frac: float | None = None
    agreement_frac: float | None = None
    low_frac: float | None = None
    test_kept_frac: float | None = None
    test_agreement_frac: float | None = None
    curve: list[ManifestShare]


class Model(Entry):
    """What ships for one target."""

    target: Name
    format: Name
    scheme: Name
    network: Annotated[
        Literal["student", "unpruned", "qat"],
        BeforeValidator(renamed_role),
        Field(description="unpruned: before [prune]; qat: after quantization-aware training"),
    ] = "student"
    machine: Annotated[Text, Field(description="as platform.machine() names it")]
    accelerator: Text
    entry: Annotated[Inside, Field(description="what the runtime is given: a file or a folder")]
    files: Annotated[list[File], Field(min_length=1)]
    size_bytes: Annotated[int, Field(gt=0)]
    zipped_bytes: int | None = None
    exported_sha256: Annotated[
        Sha256, Field(description="of the artifact of the run, before labels and names were put in")
    ]
    inputs: Annotated[list[Tensor], Field(min_length=1)]
    outputs: Annotated[list[Tensor], Field(min_length=1)]
    golden: Golden
    why: Annotated[str, Field(description="why this candidate ships")]
    evidence: Evidence
    routing: Annotated[
        Routed | None, Field(description="which answers an app keeps, where [route] asked")
    ] = None


class Lineage(Entry):
    """What the models came from."""

    edgekd: Text
    recipe_sha256: Annotated[Sha256, Field(description="of the recipe with all its defaults")]
    data_sha256: Annotated[Sha256, Field(description="of the data and of the code that loads it")]
    tools: dict[str, str | None]
    teacher: dict[str, JsonValue] | None = None
    student: dict[str, JsonValue] | None = None


class Manifest(Entry):
    """A whole bundle."""

    schema_version: Annotated[int, Field(ge=1)]
    name: Name
    version: Annotated[
        str, Field(pattern=r"^\d+\.\d+\.\d+$", description="three numbers, major.minor.patch")
    ]
    description: str = ""
    task: Text
    metric: Text
    labels: Annotated[list[Text], Field(description="in the order of the first output")] = Field(
        default_factory=list
    )
    preprocessing: Annotated[
        dict[str, Preprocessing], Field(description="by input, what an app does before a model")
    ] = Field(default_factory=dict)
    folded: Annotated[
        dict[str, Raw], Field(description="by input, what the files do themselves")
    ] = Field(default_factory=dict)
    licences: Licences = Licences()
    android: Android = Android()
    options: Annotated[
        dict[str, dict[str, JsonValue]],
        Field(description="by kind, the options of a kind that an installed package adds"),
    ] = Field(default_factory=dict)
    models: Annotated[list[Model], Field(min_length=1)]
    left_out: Annotated[dict[str, str], Field(description="targets without a model, and why")] = (
        Field(default_factory=dict)
    )
    other_files: Annotated[
        list[File], Field(description="all others but this one, SHA256SUMS and the signature")
    ] = Field(default_factory=list)
    lineage: Lineage

    def to_json(self) -> dict[str, Any]:
        """The manifest as a JSON object."""
        return self.model_dump(mode="json", exclude=self.unwritten)

    @property
    def unwritten(self) -> set[str]:
        """Keys that the file omits: `options` where no kind has any, as before this key existed."""
        return set() if self.options else {"options"}


def json_schema() -> dict[str, Any]:
    """The JSON Schema of `manifest.json`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Manifest.model_json_schema(),
    }


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the bundle in `folder`.

    Raises:
        RecipeError: there is none, it is of a later version, or anything in it is wrong; all
            faults are told.
    """
    path = folder / MANIFEST
    try:
        if path.is_symlink():
            raise ValueError("a symbolic link")
        document = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
        version = document["schema_version"]
        if not isinstance(version, int) or isinstance(version, bool):
            raise ValueError(f"schema_version = {version!r}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RecipeError(
            Fault(
                what=f"{folder} is not a bundle.",
                at=str(path),
                got=f"{type(error).__name__}: {error}",
                expected=f"a folder with the {MANIFEST} that edgekd writes",
                fix="name the folder of a bundle, RUN/bundle/NAME-VERSION, or make it again",
            )
        ) from error
    if version > SCHEMA_VERSION:
        raise RecipeError(
            Fault(
                what="The bundle was written by a later edgekd.",
                at=f"{path}:schema_version",
                got=str(version),
                expected=f"at most {SCHEMA_VERSION}",
                fix="pip install -U edgekd",
            )
        )
    try:
        return Manifest.model_validate(document)
    except ValidationError as error:
        faults = validation_faults(error, Manifest, document, str(path), noun="manifest")
        # Nobody writes a manifest by hand.
        again = "take the bundle from its source again, or make it again: edgekd run RECIPE"
        raise RecipeError(*(replace(fault, fix=again) for fault in faults)) from None


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no number of JSON")
