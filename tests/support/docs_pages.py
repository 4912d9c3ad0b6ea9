"""The commands and the Python that README.md and docs/ tell a reader."""

from __future__ import annotations

import re
from pathlib import Path

HOME = Path(__file__).parents[2]
PAGES = [HOME / "README.md", *sorted((HOME / "docs").glob("*.md"))]
PROGRAMS = ("edgekd", "make", "pip", "python", "adb", "torchrun", "apt-get")

_BLOCK = re.compile(r"(?ms)^```(\w*)\n(.*?)^```$|^((?: {4}\S[^\n]*\n)+)")
"""Code: a fence with its language, or lines that are set in."""


def blocks(page: Path) -> list[tuple[str, str]]:
    """The blocks of code of a page in their order: the language, "" for commands, and the text."""
    return [
        (found[1] or "", found[2] if found[3] is None else found[3])
        for found in _BLOCK.finditer(page.read_text())
    ]


def lines(block: str) -> list[str]:
    """The commands of a block.

    What is told beside one is no part of it. A line that begins with an option belongs to the
    command before it, and may be left out of it.
    """
    found: list[str] = []
    for line in block.splitlines():
        told = re.split(r"\s{2,}|\s#\s", line.strip())[0]
        if told.startswith("--") and found:
            found[-1] += f" [{told}]"
        elif told.startswith(PROGRAMS):
            found.append(told)
    return [
        f"{each.split()[0]} {other}" if number else other
        for each in found
        for number, other in enumerate(each.split(" | "))
    ]


def commands(page: Path) -> list[str]:
    """Every command that a page tells, as it stands there: in blocks, and in its prose those that
    are more than a command's name."""
    prose = _BLOCK.sub("", page.read_text())
    spans = [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", prose)]
    told = [span for span in spans if span.partition(" ")[0] in PROGRAMS and span.count(" ") > 1]
    shell = [body for language, body in blocks(page) if not language]
    return list(dict.fromkeys([line for body in shell for line in lines(body)] + told))


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
    return [body for language, body in blocks(page) if language == "python"]
