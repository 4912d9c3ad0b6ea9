"""Names and strings as the generated languages spell them."""

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
    """`keyword-spotter` as `KeywordSpotter`; a digit is never first."""
    made = "".join(part[0].upper() + part[1:] for part in words(name))
    return made if made[:1].isalpha() else f"Model{made}"


def snake(name: str) -> str:
    """`keyword-spotter` as `keyword_spotter`; a digit is never first, a word of Java's or
    Python's own never all of it."""
    made = "_".join(words(name)).lower()
    own = made in JAVA_WORDS or keyword.iskeyword(made)
    return f"model_{made}" if own or not made[:1].isalpha() else made


def titled(manifest: Manifest, formats: Collection[str]) -> Iterator[tuple[str, Model]]:
    """The models of `formats`, each with its name in the app.

    That is the bundle's, with the target's where there are several; no two are the same, not even
    on a file system that ignores case.
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
    """`text` as a string literal of Java: ASCII, and no escape that its reader takes for code."""
    return json.dumps(text)


def swift_quoted(text: str) -> str:
    """`text` as a string literal of Swift, which has `\\u{...}` and interpolates `\\(...)`."""
    plain = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return (
        '"'
        + "".join(plain.get(c) or (c if " " <= c <= "~" else f"\\u{{{ord(c):x}}}") for c in text)
        + '"'
    )


def c_quoted(text: str) -> str:
    """`text` as a string literal of C, in UTF-8; no trigraph, and no escape that runs on."""
    made = []
    for byte in text.encode():
        c = chr(byte)
        made.append(f"\\{c}" if c in '\\"?' else c if " " <= c <= "~" else f"\\{byte:03o}")
    return '"' + "".join(made) + '"'


def rows(entries: Iterable[str], indent: str = "    ") -> str:
    """`entries` one on a line, with commas between."""
    return ",\n".join(f"{indent}{entry}" for entry in entries)
