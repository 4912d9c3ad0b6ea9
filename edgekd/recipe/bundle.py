"""The `[bundle]` table of a recipe: packages for an app build."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, model_validator
from pydantic_core import PydanticCustomError

from edgekd.errors import Fault
from edgekd.recipe.table import Table, one_of


class Preprocessing(Table):
    """The steps that an app applies to one raw input, in the order of the keys.

    A step without a key is skipped. A raw value, from 0 to 255 in an 8-bit image, becomes
    (value * scale - mean) / std.
    """

    resize: Annotated[
        list[int] | None,
        Field(min_length=2, max_length=2, description="Height and width to resize to, in pixels."),
    ] = None
    interpolation: Annotated[
        Literal["nearest", "bilinear", "bicubic", "area"] | None,
        Field(description="Interpolation of the resize."),
    ] = None
    crop: Annotated[
        list[int] | None,
        Field(
            min_length=2,
            max_length=2,
            description="Height and width of the centre crop, in pixels.",
        ),
    ] = None
    color: Annotated[
        Literal["rgb", "bgr", "gray"] | None,
        Field(description="Order of the channels of an image."),
    ] = None
    sample_rate_hz: Annotated[
        int | None, Field(gt=0, description="Sample rate of a signal, in Hz.")
    ] = None
    scale: Annotated[
        float, Field(gt=0, description="Factor of a raw value, applied before the mean.")
    ] = 1.0
    mean: Annotated[
        list[float], Field(description="Mean per channel, or one for all channels.")
    ] = Field(default_factory=lambda: [0.0])
    std: Annotated[
        list[Annotated[float, Field(gt=0)]],
        Field(min_length=1, description="Standard deviation per channel, or one for all channels."),
    ] = Field(default_factory=lambda: [1.0])
    note: Annotated[
        str, Field(description="A step that the keys cannot express, e.g. the tokenizer.")
    ] = ""

    @model_validator(mode="after")
    def _one_value_per_channel(self) -> Preprocessing:
        if len({len(self.mean), len(self.std)} - {1}) > 1 or not self.mean:
            raise PydanticCustomError(
                "lengths",
                "as many values in mean as in std: one per channel, or one for all channels",
                {"key": "mean"},
            )
        return self


class Licences(Table):
    """Licences as SPDX expressions, e.g. "Apache-2.0". They are recorded, not checked."""

    model: Annotated[str | None, Field(description="Licence of the weights that ship.")] = None
    data: Annotated[str | None, Field(description="Licence of the training data.")] = None
    teacher: Annotated[str | None, Field(description="Licence of the teacher.")] = None


GROUP = r"^[a-z][a-z0-9]*(\.[a-z][a-z0-9]*)*$"

JAVA_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
        abstract assert boolean break byte case catch char class const continue default
        do double else enum extends false final finally float for goto if implements
        import instanceof int interface long native new null package private protected
        public return short static strictfp super switch synchronized this throw throws
        transient true try void volatile while
        """,
    )
)
"""The reserved words of Java, which no part of a package name may be.

Source: Java Language Specification 8, section 3.9.
"""


def group_fault(at: str, group: str | None) -> Fault | None:
    """The fault of the Maven group that is given at `at`, or None."""
    parts = (group or "").split(".")
    if group and re.fullmatch(GROUP, group) and not JAVA_WORDS & {*parts}:
        return None
    return Fault(
        what="An Android package needs a group that is valid in Maven and Java.",
        at=at,
        got=repr(group) if group else "nothing",
        expected="lower-case words joined by dots, e.g. com.acme.models, and no reserved word of "
        "Java",
        fix="--group com.acme.models"
        if at.startswith("--")
        else 'write android = { group = "com.acme.models" }',
    )


class Android(Table):
    """The Maven coordinates of an Android package."""

    group: Annotated[
        str | None,
        Field(
            pattern=GROUP,
            description="Maven group and Java package: lower-case words joined by dots, e.g. "
            "com.acme.models. Needed for the kind android.",
        ),
    ] = None


class Bundle(Table):
    """The packages that a run makes for an app build."""

    kinds: Annotated[
        list[Annotated[str, one_of("bundles")]],
        Field(
            min_length=1,
            description="Kinds of package: folder (always written), archive, android, swift, "
            "linux, or a kind that an installed package adds.",
        ),
    ] = Field(default_factory=lambda: ["folder"])
    description: Annotated[
        str, Field(description="Description of the model, for the model card.")
    ] = ""
    labels: Annotated[
        list[str] | str,
        Field(
            description="Class names in the order of the outputs, or a file with one name per line."
        ),
    ] = Field(default_factory=list)
    preprocessing: Annotated[
        dict[str, Preprocessing],
        Field(description="For each input, the steps that an app applies to its raw value."),
    ] = Field(default_factory=dict)
    licences: Annotated[
        Licences, Field(description="Licences of the model, the data and the teacher.")
    ] = Licences()
    android: Annotated[Android, Field(description="Maven coordinates of the android package.")] = (
        Android()
    )
    options: Annotated[
        dict[str, dict[str, JsonValue]],
        Field(
            description="Options of a kind that an installed package adds; [bundle.KIND] sets "
            "them, too."
        ),
    ] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _tables_of_added_kinds(cls, document: Any) -> Any:
        """Read the table [bundle.KIND] of each kind listed in `kinds` as its options."""
        kinds = document.get("kinds") if isinstance(document, dict) else None
        if not isinstance(kinds, list):
            return document
        added = {
            key: value
            for key, value in document.items()
            if key in kinds and key not in cls.model_fields and isinstance(value, dict)
        }
        if not added:
            return document
        rest = {key: value for key, value in document.items() if key not in added}
        return {**rest, "options": {**rest.get("options", {}), **added}}

    def label_names(self, base: Path) -> list[str]:
        """The labels; a file's path is relative to `base`.

        Raises:
            OSError, UnicodeDecodeError: the file cannot be read.
        """
        if isinstance(self.labels, list):
            return self.labels
        return (base / self.labels).read_text(encoding="utf-8").splitlines()
