"""Text of a manifest in generated files: one function per language.

A bundle may come from somebody else, so its labels, names and descriptions may hold any character.
Each function returns a literal, or the contents of an element or a line, that its language reads
back as the text and never as code. A character that a language cannot hold becomes U+FFFD.
"""

from __future__ import annotations

import re

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

SURROGATES = re.compile("[\ud800-\udfff]")
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Source: XML 1.0, fifth edition, production 2, https://www.w3.org/TR/xml/#charsets"""

CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Control characters and line separators."""


def quoted_java(text: str) -> str:
    """`text` as an ASCII string literal of Java.

    Java replaces Unicode escapes before it looks for quotes and line ends, so ASCII characters have
    octal escapes, and a doubled backslash keeps the text's own `\\u` from being one.

    Source: Java Language Specification 8, sections 3.3 and 3.10.6.
    """
    parts = []
    for char in SURROGATES.sub(REPLACEMENT, text):
        if char in '\\"':
            parts.append(f"\\{char}")
        elif " " <= char <= "~":
            parts.append(char)
        elif char < "\x80":
            parts.append(f"\\{ord(char):03o}")
        else:
            units = char.encode("utf-16-be").hex()
            parts += [f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4)]
    return '"' + "".join(parts) + '"'


def quoted_swift(text: str) -> str:
    """`text` as an ASCII string literal of Swift, without interpolation.

    Source: https://docs.swift.org/swift-book/documentation/the-swift-programming-language/lexicalstructure#String-Literals
    """
    parts = []
    for char in SURROGATES.sub(REPLACEMENT, text):
        if char in '\\"':
            parts.append(f"\\{char}")
        else:
            parts.append(char if " " <= char <= "~" else f"\\u{{{ord(char):x}}}")
    return '"' + "".join(parts) + '"'


def quoted_c(text: str) -> str:
    """`text` in UTF-8 as an ASCII string literal of C, without trigraphs or open-ended escapes.

    Source: C11, section 6.4.4.4: an octal escape has at most three digits.
    """
    parts = []
    for byte in SURROGATES.sub(REPLACEMENT, text).encode():
        char = chr(byte)
        if char in '\\"?':
            parts.append(f"\\{char}")
        else:
            parts.append(char if " " <= char <= "~" else f"\\{byte:03o}")
    return '"' + "".join(parts) + '"'


def quoted_cmake(text: str) -> str:
    """`text` as a quoted argument of CMake, without references to variables.

    CMake has no escape for the character NUL.

    Source: https://cmake.org/cmake/help/latest/manual/cmake-language.7.html#quoted-argument
    """
    lines = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
    valid = SURROGATES.sub(REPLACEMENT, text).replace("\0", REPLACEMENT)
    escaped = re.sub(r'[\\"$@]', lambda match: f"\\{match[0]}", valid)
    return '"' + re.sub("[\n\r\t]", lambda match: lines[match[0]], escaped) + '"'


def xml_text(text: str) -> str:
    """`text` as the contents of an XML element or of a quoted attribute."""
    special = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;", "\r": "&#13;"}
    return re.sub("[&<>\"'\r]", lambda match: special[match[0]], NOT_XML.sub(REPLACEMENT, text))


def metadata_line(text: str) -> str:
    """`text` as the value of one line of a wheel's METADATA: without line ends or control
    characters."""
    return " ".join(CONTROLS.sub(REPLACEMENT, " ".join(text.split())).split())


def markdown_line(text: object) -> str:
    """`text` on one line of Markdown, its HTML and markup escaped, also those of a line's start."""
    line = CONTROLS.sub(REPLACEMENT, " ".join(str(text).split()))
    escaped = re.sub(r"([\\`*_~{}\[\]<>|#])", r"\\\1", line).replace("&", "&amp;")
    return re.sub(r"^(\d*)([-+.)](?=\s|$)|-+$|=+$)", r"\1\\\2", escaped)
