"""Output on a terminal and into a pipe."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.support.project import Project, tiny_recipe
from tests.support.terminal import in_a_terminal

COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])(?:;\d+)*m")
"""The escape codes that choose a colour.

Source: ECMA-48, 5th edition, 8.3.117, and the bright ones of xterm.
"""

WORDS = ["run", "recipe.toml", "--until", "distill"]


def test_a_terminal_shows_progress_bars_and_colours_unless_switched_off(
    project: Project,
) -> None:
    code, result = in_a_terminal(WORDS, folder=project.folder)
    assert code == 0, result
    assert COLOUR.search(result)
    assert "3/3" in result
    assert re.search(r"\d:\d\d", result), "no time left"
    assert result.rstrip().splitlines()[-1].startswith("next: ")
    code, result = in_a_terminal(WORDS, folder=project.folder, NO_COLOR="1")
    assert code == 0, result
    assert not COLOUR.search(result)
    assert "distill" in result


def test_a_pipe_gets_plain_lines(project: Project) -> None:
    document = tiny_recipe()
    document["distill"]["epochs"] = 4
    project.write(document)
    done = subprocess.run(
        [sys.executable, "-m", "edgekd.cli", *WORDS],
        cwd=project.folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "\x1b" not in done.stdout + done.stderr
    assert "distill 4/4: loss" in done.stderr
    assert done.stdout.splitlines()[-1].startswith("next: ")
