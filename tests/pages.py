"""The commands and the Python that README.md and docs/ tell a reader."""

from __future__ import annotations

import re
from pathlib import Path

HOME = Path(__file__).parents[1]
PAGES = [HOME / "README.md", *sorted((HOME / "docs").glob("*.md"))]
PROGRAMS = ("edgekd", "make", "pip", "python", "adb", "torchrun", "apt-get")

_FENCE = re.compile(r"(?ms)^```(\w*)\n(.*?)^```$")


def commands(page: Path) -> list[str]:
    """Every command that a page tells, as it stands there.

    They are the lines of code blocks that begin with a program, without what is told beside them,
    and the spans of code in its prose that are more than a command's name. A line that begins with
    an option belongs to the command before it, and may be left out of it.
    """
    text = page.read_text()
    blocks = "".join(body for language, body in _FENCE.findall(text) if not language)
    prose = _FENCE.sub("", text)
    found: list[str] = []
    for line in [*blocks.splitlines(), *re.findall(r"(?m)^ {4}\S.*$", prose)]:
        told = re.split(r"\s{2,}|\s#\s", line.strip())[0]
        if told.startswith("--") and found:
            found[-1] += f" [{told}]"
        elif told.startswith(PROGRAMS):
            found.append(told)
    spans = [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", prose)]
    found += [span for span in spans if span.partition(" ")[0] in PROGRAMS and span.count(" ") > 1]
    alternatives = [
        f"{first} {other}" if number else other
        for each in found
        for first in [each.split()[0]]
        for number, other in enumerate(each.split(" | "))
    ]
    return list(dict.fromkeys(alternatives))


def variants(command: str) -> list[str]:
    """A command without what may be left out of it, [so], and with each of these alone."""
    parts = re.split(r"\[([^]]+)\]", command)  # What may be left out is at odd places.
    kept = [None, *range(1, len(parts), 2)]
    return [
        " ".join("".join(p for n, p in enumerate(parts) if n % 2 == 0 or n == one).split())
        for one in kept
    ]


def python_blocks(page: Path) -> list[str]:
    """The blocks of Python of a page, in their order."""
    return [body for language, body in _FENCE.findall(page.read_text()) if language == "python"]
