"""The string literals and the rest of a Swift source, as its compiler tells them apart.

Source: https://docs.swift.org/swift-book/documentation/the-swift-programming-language/lexicalstructure
"""

from __future__ import annotations

import re

ESCAPES = {"0": "\0", "\\": "\\", "t": "\t", "n": "\n", "r": "\r", '"': '"', "'": "'"}


def split_swift(source: str) -> tuple[list[str], str]:
    """The values of the string literals in `source`, and its code with empty literals.

    Comments are left out. A literal of the templates' own may hold an interpolation, which stays in
    the value as it is written.

    Raises:
        ValueError: a literal or a comment does not end, or has an escape that Swift lacks.
    """
    literals: list[str] = []
    code: list[str] = []
    i = 0
    while i < len(source):
        if source.startswith("//", i):
            end = re.compile("[\n\r]|$").search(source, i)
            assert end is not None
            i = end.start()
        elif source.startswith("/*", i):
            i = source.index("*/", i) + 2
        elif source.startswith('"""', i):
            raise ValueError("a literal of several lines")
        elif source[i] == '"':
            value, i = _literal(source, i + 1)
            literals.append(value)
            code.append('""')
        else:
            code.append(source[i])
            i += 1
    return literals, "".join(code)


def _literal(source: str, i: int) -> tuple[str, int]:
    """The value of the literal whose contents begin at `i`, and the position after it."""
    value = []
    while source[i] != '"':
        if source[i] in "\n\r":
            raise ValueError("a line end in a literal")
        if source[i] != "\\":
            value.append(source[i])
            i += 1
        elif source.startswith("\\u{", i):
            digits, _, _ = source[i + 3 :].partition("}")
            code = int(digits, 16)
            if len(digits) > 8 or 0xD800 <= code <= 0xDFFF:
                raise ValueError(f"no scalar {digits}")
            value.append(chr(code))
            i += len(digits) + 4
        elif source.startswith("\\(", i):
            value.append("\\(")
            i += 2
        else:
            value.append(ESCAPES[source[i + 1]])
            i += 2
    return "".join(value), i + 1
