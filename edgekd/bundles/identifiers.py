"""Identifiers and string literals of the generated languages."""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Collection, Iterable, Iterator

from edgekd.bundles.manifest import Manifest, Model
from edgekd.recipe.bundle import JAVA_WORDS


def words(name: str) -> list[str]:
    """The parts of a name of letters, digits, '.', '_' and '-'."""
    return [part for part in re.split(r"[^A-Za-z0-9]+", name) if part]


def camel(name: str) -> str:
    """`keyword-spotter` as `KeywordSpotter`, never with a leading digit."""
    identifier = "".join(part[0].upper() + part[1:] for part in words(name))
    return identifier if identifier[:1].isalpha() else f"Model{identifier}"


def snake(name: str) -> str:
    """`keyword-spotter` as `keyword_spotter`, never with a leading digit or a reserved word."""
    identifier = "_".join(words(name)).lower()
    reserved = identifier in JAVA_WORDS or keyword.iskeyword(identifier)
    valid = identifier[:1].isalpha() and not reserved
    return identifier if valid else f"model_{identifier}"


def titled(manifest: Manifest, formats: Collection[str]) -> Iterator[tuple[str, Model]]:
    """The models of `formats`, each with its name in the app.

    The name is the bundle's, followed by the target's if there are several models. Names are unique
    even on a file system that ignores case.
    """
    models = [model for model in manifest.models if model.format in formats]
    if len(models) == 1:
        yield manifest.name, models[0]
        return
    taken: set[str] = set()
    for model in models:
        title = f"{manifest.name}-{model.target}"
        number = 1
        while snake(title) in taken or camel(title).lower() in taken:
            number += 1
            title = f"{manifest.name}-{model.target}-{number}"
        taken |= {snake(title), camel(title).lower()}
        yield title, model


def quoted(text: str) -> str:
    """`text` as an ASCII string literal of Java."""
    return json.dumps(text)


def swift_quoted(text: str) -> str:
    """`text` as a string literal of Swift: `\\u{...}` escapes, and no `\\(...)` interpolation."""
    plain = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return (
        '"'
        + "".join(plain.get(c) or (c if " " <= c <= "~" else f"\\u{{{ord(c):x}}}") for c in text)
        + '"'
    )


def c_quoted(text: str) -> str:
    """`text` as a UTF-8 string literal of C, without trigraphs or open-ended escapes."""
    parts = []
    for byte in text.encode():
        c = chr(byte)
        parts.append(f"\\{c}" if c in '\\"?' else c if " " <= c <= "~" else f"\\{byte:03o}")
    return '"' + "".join(parts) + '"'


def rows(entries: Iterable[str], indent: str = "    ") -> str:
    """`entries`, one per line, with commas between."""
    return ",\n".join(f"{indent}{entry}" for entry in entries)
