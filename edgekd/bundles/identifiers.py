"""Names and strings as the generated languages spell them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

from edgekd.bundles.manifest import Manifest, Model


def words(name: str) -> list[str]:
    """The parts of a name of letters, digits, '.', '_' and '-'."""
    return [part for part in re.split(r"[^A-Za-z0-9]+", name) if part]


def camel(name: str) -> str:
    """`keyword-spotter` as `KeywordSpotter`; a digit is never first."""
    made = "".join(part[0].upper() + part[1:] for part in words(name))
    return made if made[:1].isalpha() else f"Model{made}"


def snake(name: str) -> str:
    """`keyword-spotter` as `keyword_spotter`; a digit is never first."""
    made = "_".join(words(name)).lower()
    return made if made[:1].isalpha() else f"model_{made}"


def titles(manifest: Manifest, models: Sequence[Model]) -> dict[str, str]:
    """By target, the name of its model in the app: the bundle's, with the target's where there
    are several; no two are the same, not even on a file system that ignores case."""
    if len(models) == 1:
        return {models[0].target: manifest.name}
    made: dict[str, str] = {}
    taken: set[str] = set()
    for model in models:
        title = f"{manifest.name}-{model.target}"
        number = 1
        while snake(title) in taken or camel(title).lower() in taken:
            number += 1
            title = f"{manifest.name}-{model.target}-{number}"
        taken |= {snake(title), camel(title).lower()}
        made[model.target] = title
    return made


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
