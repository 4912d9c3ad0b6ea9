"""Fixtures: a small project with a recipe, and the command line called as a user calls it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from edgekd import cli
from tests.support.project import DATA, MODELS, CommandResult, Project, tiny_recipe

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before torch is there: workers with as many threads as cores each wait for one another.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "data.py").write_text(DATA)
    (tmp_path / "models.py").write_text(MODELS)
    made = Project(tmp_path)
    made.write(tiny_recipe())
    return made


@pytest.fixture
def edgekd_cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    """Calls the program with words, in this process, and returns what it said."""

    def call(*words: object) -> CommandResult:
        monkeypatch.setattr(sys, "argv", ["edgekd", *map(str, words)])
        cli.printed.clear()
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capfd.readouterr()
        return CommandResult(code=int(stop.value.code or 0), out=out, err=err)

    return call
