"""Bundles that somebody else wrote: consistent in themselves, their texts hostile."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from edgekd.bundles.manifest import Manifest
from edgekd.bundles.quoting import CONTROLS
from edgekd.recipe.bundle import Licences
from tests.support.bundles import model, written

EXAMPLES = int(os.environ.get("EDGEKD_FUZZ_EXAMPLES", "25"))
"""Examples for each generator; a large number is for runs by hand."""

FRAGMENTS = [
    '"', "'", "\\", "\n", "\r", "\r\n", "\t", "\0", "$", ";", "`touch MARK`", "$(touch MARK)",
    "${CMAKE_VERSION}", "@CMAKE_VERSION@", "$ENV{HOME}", "$<1:x>", "\\u000a", "\\u0022", "\\u005c",
    "*/", "/*", "//", "#", "]]>", "<!--", "-->", "&", "&amp;", "<", ">", "]]", "]=]", "[=[", "??/",
    "??=", "%s", "{", "}", "{0}", "\\(x)", "#{x}", '"""', "'''", "\N{LINE SEPARATOR}",
    "\N{PARAGRAPH SEPARATOR}", "\x1b[2J", "\x07", "\x85", "\x9b2J", "\x7f", "\x1a", "\ufffe",
    "\N{RIGHT-TO-LEFT OVERRIDE}", "Grüße", "\N{GRINNING FACE}", "\n# ", "\n- ", "| x |", "~~~",
    '")\nexecute_process(COMMAND touch MARK)\nset(x "', '"; static { System.exit(1); } String x="',
    '"\n#include "/etc/passwd"\n', "\nEvil: header", "]</name><x/>",
]  # fmt: skip

WELL_FORMED = st.characters(exclude_categories=["Cs"])


def texts(characters: SearchStrategy[str] = WELL_FORMED) -> SearchStrategy[str]:
    """Texts of what some language takes for its own, between characters of all kinds."""
    parts = st.sampled_from(FRAGMENTS) | st.text(characters, max_size=3)
    return st.lists(parts, max_size=8).map("".join)


NAMES = st.from_regex(re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", re.ASCII), fullmatch=True)
SEGMENTS = st.from_regex(re.compile(r"[A-Za-z0-9._-]{1,20}", re.ASCII), fullmatch=True).filter(
    lambda name: name.strip(".") != ""
)
LABELS = texts().map(lambda text: CONTROLS.sub("", text)).filter(bool)
NUMBERS = st.integers(0, 10**9 - 1)

BUNDLES = st.fixed_dictionaries(
    {
        "name": NAMES,
        "version": st.tuples(NUMBERS, NUMBERS, NUMBERS).map(lambda v: ".".join(map(str, v))),
        "targets": st.lists(NAMES, min_size=2, max_size=2, unique=True),
        "file": SEGMENTS,
        "labels": st.lists(LABELS, max_size=4),
        "tensors": st.lists(texts().filter(bool), min_size=2, max_size=2, unique=True),
        "text": texts(),
        "licence": texts(),
        "layout": texts(),
    }
)
"""The names and texts of a bundle."""


def collected(strategy: SearchStrategy[Any], count: int = EXAMPLES) -> list[Any]:
    """`count` examples of `strategy`, the same in every run, for one start of a compiler."""
    examples: list[Any] = []

    @settings(max_examples=count, derandomize=True, database=None, deadline=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(strategy)
    def collect(example: Any) -> None:
        examples.append(example)

    collect()
    return examples[:count]


def bundle_of(
    parent: Path, names: dict[str, Any], formats: tuple[str, ...], plain: bool = False
) -> tuple[Path, Manifest]:
    """Write a bundle with models of two of `formats` and the names and texts `names`.

    Args:
        plain: replace each free text, so that only the names are the example's.
    """
    keep: Callable[[str, str], str] = lambda text, other: other if plain else text  # noqa: E731
    folder = parent / f"{names['name']}-{names['version']}"
    tensors = ("x", "y") if plain else tuple(names["tensors"])
    models = []
    for target, format in zip(names["targets"], formats, strict=False):
        entry = model(folder, format, target=target, file=names["file"], tensors=tensors)
        tensor = entry.inputs[0].model_copy(
            update={"layout": keep(names["layout"], ""), "meaning": keep(names["text"], "")}
        )
        models.append(entry.model_copy(update={"inputs": [tensor], "why": names["text"]}))
    return written(
        parent,
        (),
        name=names["name"],
        version=names["version"],
        description=keep(names["text"], "x") or "x",
        labels=["x" for _ in names["labels"]] if plain else names["labels"],
        licences=Licences(model=keep(names["licence"], "x") or "x"),
        task=names["text"] or "x",
        metric=names["text"] or "x",
        models=models,
        left_out={names["text"]: names["text"]},
    )
