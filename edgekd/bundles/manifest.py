"""The contents of a bundle: `manifest.json`, its types and its JSON Schema."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
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

from edgekd.bundles.quoting import CONTROLS
from edgekd.errors import Fault, RecipeError
from edgekd.recipe.bundle import Android, Licences, Preprocessing
from edgekd.recipe.preprocessing import Raw
from edgekd.recipe.table import Frac
from edgekd.recipe.validation import validation_faults
from edgekd.system.strict_json import read_json

MANIFEST = "manifest.json"
SCHEMA = "manifest.schema.json"
SCHEMA_VERSION = 1
"""It grows when readers of the previous version would misread a new manifest."""


FAULT_LIMIT = 50
"""The most faults that one message lists."""
PATH_LENGTH = 1024
PATH_PATTERN = r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$"
"""A path of the bundle is a part of generated code, in every language."""


def inside(path: str) -> str:
    """`path`, if it is inside the bundle.

    Raises:
        ValueError: it leads outside, or is not a plain relative path.
    """
    parts = path.split("/")
    plain = re.fullmatch("[A-Za-z0-9._/-]+", path) and len(path) <= PATH_LENGTH
    if not plain or any(not part.strip(".") or len(part) > 255 for part in parts):
        raise ValueError(
            f"a path inside the bundle, its parts joined by /, not {path[:PATH_LENGTH]!r}; "
            "a part has letters, digits, '.', '_' and '-'"
        )
    return path


def one_line(text: str) -> str:
    """`text`, if it is one line.

    Raises:
        ValueError: it has a line end or another control character.
    """
    if CONTROLS.search(text):
        raise ValueError(f"one line without control characters, not {text!r}")
    return text


def renamed_role(role: object) -> object:
    """`role` as it is named now: edgekd 0.1 called the network of a QAT model "quantized"."""
    return "qat" if role == "quantized" else role


Inside = Annotated[
    str,
    Field(json_schema_extra={"pattern": PATH_PATTERN, "maxLength": PATH_LENGTH}),
    AfterValidator(inside),
]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$", description="64 hexadecimal digits")]
NAME_LENGTH = 80
"""The longest name; file names of packages hold two of them, and end in 255 characters."""
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=NAME_LENGTH)]
"""A name for a folder, a package or a class."""
Text = Annotated[str, Field(min_length=1)]
ShortText = Annotated[str, Field(max_length=4096)]
"""Text that becomes a string constant; one of Java has at most 65,535 bytes."""
Int32 = Annotated[int, Field(ge=-(2**31), le=2**31 - 1)]
Label = Annotated[str, Field(min_length=1), AfterValidator(one_line)]
"""A line of labels.txt."""
Dtype = Literal[
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64",
]  # fmt: skip


class Entry(BaseModel):
    """A table of the manifest: unknown keys are refused, no value is coerced."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Quantization(Entry):
    """Scale and zero point of an integer tensor: value = scale * (number - zero_point)."""

    scale: Annotated[float, Field(ge=2**-149, le=3.4e38, description="a 32-bit float")]
    zero_point: Int32


class Tensor(Entry):
    """One input or output of a model."""

    name: Annotated[ShortText, Field(min_length=1)]
    shape: Annotated[
        list[Annotated[int, Field(ge=0, le=2**31 - 1)] | None],
        Field(max_length=64, description="batch first; null for a dynamic dimension"),
    ]
    dtype: Annotated[Dtype, Field(description="numpy dtype in the file")]
    layout: Annotated[
        ShortText | None, Field(description="axes, such as batch height width channels")
    ] = None
    meaning: Annotated[
        ShortText | None,
        Field(description="meaning of the values, such as logits or probabilities"),
    ] = None
    quantization: Annotated[
        Quantization | None, Field(description="null if the tensor is not quantized")
    ] = None


class File(Entry):
    """One file of the bundle."""

    path: Inside
    sha256: Sha256
    size_bytes: Annotated[int, Field(ge=0)]


class Expected(Entry):
    """The expected values of an output, little-endian and row-major, samples first."""

    path: Inside
    max_abs_error: Annotated[
        float, Field(ge=0, description="tolerance of each value, in the numbers of the file")
    ]


class Golden(Entry):
    """Real inputs, and the model's outputs in its own runtime when it was bundled."""

    count: Annotated[int, Field(ge=1, le=2**31 - 1)]
    inputs: Annotated[
        dict[str, Inside], Field(description="files by input; little-endian, row-major")
    ]
    outputs: dict[str, Expected]


class Agreed(Entry):
    """Agreement of the file with its network; there may be more figures."""

    model_config = ConfigDict(extra="allow")
    metric: float | None = None
    smaller_is_better: Annotated[bool, Field(description="whether the metric is an error")] = False
    top1_agreement_frac: float | None = None
    task_agreement: Annotated[
        float | None, Field(description="the task's own agreement, 1 if equal")
    ] = None


class Measured(Entry):
    """Latency of an inference, and the device; there may be more figures."""

    model_config = ConfigDict(extra="allow")
    p50_ms: float | None = None
    p90_ms: float | None = None


class Evidence(Entry):
    """The run's evidence about a model, and where it comes from."""

    evidence: Annotated[
        Literal["device", "host", "emulated", "reference"] | None,
        Field(description="where the model ran"),
    ] = None
    agreement: Agreed | None = None
    measurement: Measured | None = None
    instructions: Annotated[
        int | None,
        Field(description="instructions of one inference on one thread of an emulated core"),
    ] = None
    notes: Annotated[
        list[str], Field(description="parts of the file that the target runs slowly or not at all")
    ] = Field(default_factory=list)


class ManifestShare(Entry):
    """Shares of the calibration samples that a threshold keeps."""

    threshold: Frac
    kept_frac: Frac
    agreement_frac: Frac
    low_frac: Annotated[float, Field(ge=0, le=1, description="lower bound of agreement_frac")]


class Routed(Entry):
    """The confidence threshold of a model cascade: answers below it go to the larger model."""

    threshold: Annotated[
        float | None,
        Field(ge=0, le=1, description="an answer is kept if its probability is above this"),
    ]
    why: Text
    agreement: Annotated[
        float, Field(description="required agreement of kept answers with the teacher")
    ]
    confidence: Annotated[float, Field(description="confidence level of that agreement")]
    calibration_count: Annotated[int, Field(ge=1)]
    test_count: Annotated[int, Field(ge=1)]
    kept_frac: float | None = None
    agreement_frac: float | None = None
    low_frac: float | None = None
    test_kept_frac: float | None = None
    test_agreement_frac: float | None = None
    curve: list[ManifestShare]


class Model(Entry):
    """The model that ships for one target."""

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
    entry: Annotated[Inside, Field(description="the file or folder that the runtime loads")]
    files: Annotated[list[File], Field(min_length=1)]
    size_bytes: Annotated[int, Field(gt=0)]
    zipped_bytes: int | None = None
    exported_sha256: Annotated[
        Sha256,
        Field(description="digest of the run's artifact, before labels and names were embedded"),
    ]
    inputs: Annotated[list[Tensor], Field(min_length=1)]
    outputs: Annotated[list[Tensor], Field(min_length=1)]
    golden: Golden
    why: Annotated[str, Field(description="why this candidate ships")]
    evidence: Evidence
    routing: Annotated[
        Routed | None, Field(description="confidence threshold of a model cascade, with [route]")
    ] = None

    @property
    def entry_file(self) -> File:
        """The file that the runtime loads.

        Raises:
            RecipeError: the entry is a folder.
        """
        for file in self.files:
            if file.path == self.entry:
                return file
        raise RecipeError(entry_fault(self, "a file"))


def entry_fault(model: Model, expected: str) -> Fault:
    """The fault of a model whose entry is not of the kind that its format has."""
    return Fault(
        what=f"The model of {model.target} is not a {model.format} model.",
        at=f"{MANIFEST}: models, {model.target}, entry",
        got=model.entry,
        expected=expected,
        fix="get the bundle from its source again, or build it again: edgekd run RECIPE",
    )


class Lineage(Entry):
    """The origin of the models."""

    edgekd: Text
    recipe_sha256: Annotated[Sha256, Field(description="digest of the recipe with all defaults")]
    data_sha256: Annotated[
        Sha256, Field(description="digest of the data and of the code that loads it")
    ]
    tools: dict[str, str | None]
    teacher: dict[str, JsonValue] | None = None
    student: dict[str, JsonValue] | None = None


class Manifest(Entry):
    """The manifest of a bundle."""

    schema_version: Annotated[int, Field(ge=1)]
    name: Name
    version: Annotated[
        str,
        Field(
            pattern=r"^[0-9]{1,9}\.[0-9]{1,9}\.[0-9]{1,9}$",
            description="three numbers, major.minor.patch",
        ),
    ]
    description: str = ""
    task: Text
    metric: Text
    labels: Annotated[list[Label], Field(description="in the order of the first output")] = Field(
        default_factory=list
    )
    preprocessing: Annotated[
        dict[str, Preprocessing], Field(description="by input, preprocessing that the app does")
    ] = Field(default_factory=dict)
    folded: Annotated[
        dict[str, Raw], Field(description="by input, preprocessing that is embedded in the files")
    ] = Field(default_factory=dict)
    licences: Licences = Licences()
    android: Android = Android()
    options: Annotated[
        dict[str, dict[str, JsonValue]],
        Field(description="by kind, the options of a kind that an installed package adds"),
    ] = Field(default_factory=dict)
    models: Annotated[list[Model], Field(min_length=1)]
    left_out: Annotated[
        dict[str, str], Field(description="targets without a model, and the reason")
    ] = Field(default_factory=dict)
    other_files: Annotated[
        list[File],
        Field(description="all other files except this one, SHA256SUMS and the signature"),
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
        RecipeError: it is missing, of a later version, or not valid; all faults are reported.
    """
    path = folder / MANIFEST
    try:
        if path.is_symlink():
            raise ValueError("a symbolic link")
        document = read_json(path)
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
                fix="name the folder of a bundle, RUN/bundle/NAME-VERSION, or build it again",
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
        # Manifests are not written by hand.
        again = "get the bundle from its source again, or build it again: edgekd run RECIPE"
        raise RecipeError(
            *(
                replace(fault, got=_shortened(fault.got), fix=again)
                for fault in faults[:FAULT_LIMIT]
            )
        ) from None


def _shortened(text: str) -> str:
    """`text` without its middle, if it is long: a manifest holds values of any length."""
    return text if len(text) <= 1000 else f"{text[:500]} ... {text[-500:]}"
