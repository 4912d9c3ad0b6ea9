"""The commands and the Python code in README.md and docs/."""

from __future__ import annotations

import re
from pathlib import Path

HOME = Path(__file__).parents[2]
PAGES = [HOME / "README.md", *sorted((HOME / "docs").glob("*.md"))]
PROGRAMS = ("edgekd", "make", "pip", "python", "adb", "torchrun", "apt-get")

_BLOCK = re.compile(r"(?ms)^```(\w*)\n(.*?)^```$|^((?: {4}\S[^\n]*\n)+)")
"""Code: a fence with its language, or indented lines."""


def blocks(page: Path) -> list[tuple[str, str]]:
    """The code blocks of a page, in order: the language, "" for commands, and the text."""
    return [
        (match[1] or "", match[2] if match[3] is None else match[3])
        for match in _BLOCK.finditer(page.read_text())
    ]


def lines(block: str) -> list[str]:
    """The commands of a block, without the comments beside them.

    A line that begins with an option is an optional part of the command before it.
    """
    commands: list[str] = []
    for line in block.splitlines():
        text = re.split(r"\s{2,}|\s#\s", line.strip())[0]
        if text.startswith("--") and commands:
            commands[-1] += f" [{text}]"
        elif text.startswith(PROGRAMS):
            commands.append(text)
    return [
        f"{command.split()[0]} {choice}" if number else choice
        for command in commands
        for number, choice in enumerate(command.split(" | "))
    ]


def commands(page: Path) -> list[str]:
    """Every command of a page: those in blocks, and those in prose with more than a name."""
    prose = _BLOCK.sub("", page.read_text())
    spans = [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", prose)]
    inline = [span for span in spans if span.partition(" ")[0] in PROGRAMS and span.count(" ") > 1]
    shell = [body for language, body in blocks(page) if not language]
    return list(dict.fromkeys([line for body in shell for line in lines(body)] + inline))


def variants(command: str) -> list[str]:
    """A command without its optional parts, [like this], and with each of them alone."""
    parts = re.split(r"\[([^]]+)\]", command)  # Optional parts have odd indices.
    chosen = [None, *range(1, len(parts), 2)]
    return [
        " ".join("".join(p for n, p in enumerate(parts) if n % 2 == 0 or n == one).split())
        for one in chosen
    ]


def python_blocks(page: Path) -> list[str]:
    """The Python blocks of a page, in order."""
    return [body for language, body in blocks(page) if language == "python"]
