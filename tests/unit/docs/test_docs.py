"""Links, commands, options and TOML of README.md and docs/ exist and are valid."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from edgekd.cli import COMMANDS
from edgekd.system.toml import tomllib

HOME = Path(__file__).parents[3]
PAGES = [HOME / "README.md", *sorted((HOME / "docs").glob("*.md"))]
NAMES = {"help", *(command.__name__ for command in COMMANDS)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_has_a_target(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_option_exists(page: Path, edgekd_cli: Any) -> None:
    text = page.read_text()
    code = "\n".join([*re.findall(r"(?s)```\n(.*?)```", text), *re.findall(r"(?m)^ {4}.*$", text)])
    lines = [
        *re.findall(r"(?m)^\s*edgekd ([a-z]+)\b(.*)$", code),
        *re.findall(r"`edgekd ([a-z]+)\b([^`]*)`", text),
    ]
    for name, rest in lines:
        assert name in NAMES, name
        said = edgekd_cli(name, "--help")
        for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", rest):
            assert option in said.out, f"edgekd {name} {option}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_recipe_is_toml(page: Path) -> None:
    for block in re.findall(r"(?s)```toml\n(.*?)```", page.read_text()):
        assert tomllib.loads(block)


def test_the_two_commands_of_a_fresh_machine_are_in_the_readme() -> None:
    readme, makefile = (HOME / "README.md").read_text(), (HOME / "Makefile").read_text()
    for command in ("demo", "test"):
        assert f"make {command}" in readme
        assert f"\n{command}:" in makefile


def test_every_page_is_linked_from_the_readme() -> None:
    readme = (HOME / "README.md").read_text()
    for page in PAGES[1:]:
        assert f"](docs/{page.name})" in readme


def test_every_explained_message_exists() -> None:
    text = (HOME / "docs" / "troubleshooting.md").read_text()
    table = text[text.index("## Messages") : text.index("## Rows")]
    source = "".join(path.read_text() for path in (HOME / "edgekd").rglob("*.py"))
    quoted = re.findall(r"(?m)^\| ([^|]+?) \|", table)[2:]
    assert len(quoted) > 10
    for message in quoted:
        assert message in source, message


def test_the_reference_matches_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HOME / "tools"))
    import reference_pages

    generated = reference_pages.pages()
    written = {
        path.relative_to(reference_pages.HOME).as_posix(): path.read_text()
        for path in reference_pages.HOME.rglob("*.md")
    }
    assert generated == written, "run python tools/reference_pages.py"


def test_every_recipe_key_has_a_description(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HOME / "tools"))
    import reference_pages

    for path, table in reference_pages.tables(reference_pages.Recipe):
        for name, field in table.model_fields.items():
            assert reference_pages.meaning_of(field), f"{path}.{name}"


def test_every_link_of_the_reference_has_a_target() -> None:
    index = (HOME / "docs" / "reference" / "README.md").read_text()
    for target in re.findall(r"\]\(([^)]+)\)", index):
        assert (HOME / "docs" / "reference" / target).exists(), target
