"""What is handed to the app build, and what an app does to its raw input before a model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, model_validator
from pydantic_core import PydanticCustomError

from edgekd.errors import Fault
from edgekd.recipe.table import Part, one_of


class Preprocessing(Part):
    """Of one input, in the order of its keys; what is absent is not done.

    A value that is read, of 0 to 255 in an 8-bit image, becomes (value * scale - mean) / std.
    """

    resize: Annotated[
        list[int] | None,
        Field(min_length=2, max_length=2, description="height and width, pixels"),
    ] = None
    interpolation: Annotated[
        Literal["nearest", "bilinear", "bicubic", "area"] | None, Field(description="of the resize")
    ] = None
    crop: Annotated[
        list[int] | None,
        Field(min_length=2, max_length=2, description="height and width of the centre, pixels"),
    ] = None
    color: Annotated[
        Literal["rgb", "bgr", "gray"] | None, Field(description="order of an image's channels")
    ] = None
    sample_rate_hz: Annotated[int | None, Field(gt=0, description="of a signal")] = None
    scale: Annotated[float, Field(gt=0, description="of a value, before the mean")] = 1.0
    mean: Annotated[list[float], Field(description="by channel, or one for all")] = Field(
        default_factory=lambda: [0.0]
    )
    std: Annotated[
        list[Annotated[float, Field(gt=0)]],
        Field(min_length=1, description="by channel, or one for all"),
    ] = Field(default_factory=lambda: [1.0])
    note: Annotated[str, Field(description="what the keys cannot say, such as a tokenizer")] = ""

    @model_validator(mode="after")
    def _a_value_each(self) -> Preprocessing:
        if len({len(self.mean), len(self.std)} - {1}) > 1 or not self.mean:
            raise PydanticCustomError(
                "lengths",
                "as many of mean as of std, one for each channel or one for all",
                {"key": "mean"},
            )
        return self


class Licences(Part):
    """SPDX expressions, such as "Apache-2.0"; they are stated, never judged."""

    model: Annotated[str | None, Field(description="of the weights that ship")] = None
    data: Annotated[str | None, Field(description="of the training data")] = None
    teacher: Annotated[str | None, Field(description="of the teacher")] = None


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
"""What no part of a Java package can be called.

Source: Java Language Specification 8, section 3.9.
"""


def group_fault(at: str, group: str | None) -> Fault | None:
    """What is wrong with the Maven group that is given at `at`, or None."""
    words = (group or "").split(".")
    if group and re.fullmatch(GROUP, group) and not JAVA_WORDS & {*words}:
        return None
    return Fault(
        what="An Android package has no group that Maven and Java take.",
        at=at,
        got=repr(group) if group else "nothing",
        expected="words of small letters and digits, joined by dots, such as com.acme.models; none "
        "of them a word of Java's own",
        fix="--group com.acme.models"
        if at.startswith("--")
        else 'write android = { group = "com.acme.models" }',
    )


class Android(Part):
    """What an Android package is called."""

    group: Annotated[
        str | None,
        Field(
            pattern=GROUP,
            description="Maven's, and of the Java package: words of small letters and digits, "
            "joined by dots, such as com.acme.models",
        ),
    ] = None


class Bundle(Part):
    """What is handed to the app build."""

    kinds: Annotated[
        list[Annotated[str, one_of("bundles")]],
        Field(
            min_length=1,
            description="kinds of package to write: folder (always written), archive, android, "
            "swift, linux, or a kind that an installed package adds",
        ),
    ] = Field(default_factory=lambda: ["folder"])
    description: Annotated[str, Field(description="of the model, for the card")] = ""
    labels: Annotated[
        list[str] | str, Field(description="in the outputs' order, or a file, one on a line")
    ] = Field(default_factory=list)
    preprocessing: Annotated[
        dict[str, Preprocessing], Field(description="by input, what an app does before it")
    ] = Field(default_factory=dict)
    licences: Annotated[Licences, Field(description="SPDX expressions")] = Licences()
    android: Annotated[Android, Field(description="of the Android package")] = Android()
    options: Annotated[
        dict[str, dict[str, JsonValue]],
        Field(description="options of a kind that an installed package adds; or [bundle.KIND]"),
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
