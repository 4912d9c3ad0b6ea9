"""Workflows, changelog, pins and CONTRIBUTING.md agree with each other and with the repository."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import edgekd
from edgekd.system.toml import tomllib

HOME = Path(__file__).parents[3]
WORKFLOWS = sorted((HOME / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((HOME / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
PAGES = [HOME / name for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
PINNED = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
TOP = {path.name for path in HOME.iterdir()}


def text(name: str) -> str:
    return (HOME / name).read_text()


def workflow(path: Path) -> dict[Any, Any]:
    loaded = yaml.safe_load(path.read_text())
    assert isinstance(loaded, dict)
    return loaded


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in workflow(path)["jobs"].values() for step in job.get("steps", [])]


def installed_by_apt(script: str) -> set[str]:
    """The packages that `apt-get install` gets in a shell script."""
    lines = script.replace("\\\n", " ").splitlines()
    installs = [re.search(r"apt-get install (.*)", line) for line in lines]
    words = [word for match in installs if match for word in match[1].split()]
    return {word for word in words if not word.startswith("-")}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_action_is_pinned_by_its_commit(path: Path) -> None:
    used = re.findall(r"(?m)^\s*(?:- )?uses: (.*)$", path.read_text())
    assert used
    for action in used:
        if action.startswith("./"):
            assert (HOME / action).is_file()
        else:
            assert PINNED.fullmatch(action), action


def test_an_action_has_one_version_in_all_workflows() -> None:
    used = {
        action
        for path in WORKFLOWS
        for action in re.findall(r"uses: ([^.\s].*)$", path.read_text(), re.M)
    }
    names = [action.partition("@")[0] for action in used]
    assert len(names) == len(set(names)), sorted(used)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_has_minimal_permissions_and_a_timeout(path: Path) -> None:
    whole = workflow(path)
    assert whole["permissions"] == {"contents": "read"}
    assert whole["concurrency"]["group"].startswith(f"{path.stem}-")
    for name, job in whole["jobs"].items():
        assert "uses" in job or job["timeout-minutes"] <= 300, name
        if (path.stem, name) == ("release", "publish"):
            assert job["permissions"] == {"id-token": "write"}
        else:
            assert "permissions" not in job, name


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_no_script_contains_an_expression(path: Path) -> None:
    for step in steps(path):
        assert "${{" not in step.get("run", ""), "pass it through env"


def test_the_make_targets_of_workflows_exist() -> None:
    targets = {
        name
        for path in WORKFLOWS
        for step in steps(path)
        for name in re.findall(r"(?m)^make ([a-z]+)$", step.get("run", ""))
    }
    assert targets == {"check", "test", "demo"}
    for name in targets:
        assert f"\n{name}:" in text("Makefile")


def test_the_tests_workflow_installs_the_packages_of_ci_run() -> None:
    wanted = installed_by_apt(text(".ci/run"))
    assert "chromium" in wanted
    scripts = "\n".join(step.get("run", "") for step in steps(WORKFLOWS[0].with_name("tests.yml")))
    assert wanted <= installed_by_apt(scripts)


def test_a_release_waits_for_checks_and_tests() -> None:
    jobs = workflow(WORKFLOWS[0].with_name("release.yml"))["jobs"]
    assert {"checks", "tests", "build"} == set(jobs["publish"]["needs"])
    assert jobs["publish"]["environment"]["name"] == "pypi"
    assert jobs["publish"]["steps"][-1]["with"]["attestations"] is True


def test_the_changelog_has_the_version_of_the_package() -> None:
    version = tomllib.loads(text("pyproject.toml"))["project"]["version"]
    assert version == edgekd.__version__
    changelog = text("CHANGELOG.md")
    entries = re.findall(r"(?m)^## \[(.+?)\](?: - (\d{4}-\d{2}-\d{2}))?$", changelog)
    assert entries[0] == ("Unreleased", "")
    assert entries[1][0] == version
    dates = [date for _, date in entries[1:]]
    assert all(dates)
    assert dates == sorted(dates, reverse=True)
    for name, _ in entries:
        assert re.search(rf"(?m)^\[{re.escape(name)}\]: https://", changelog), name


def test_the_supported_version_is_the_one_of_the_package() -> None:
    minor = edgekd.__version__.rpartition(".")[0]
    assert f"| {minor}.x | yes |" in text("SECURITY.md")


def test_pre_commit_uses_the_ruff_version_of_the_constraints() -> None:
    repositories = yaml.safe_load(text(".pre-commit-config.yaml"))["repos"]
    revisions = {each["repo"].rpartition("/")[2]: each.get("rev") for each in repositories}
    tested = re.search(r"(?m)^ruff==(.+)$", text("constraints.txt"))
    assert tested
    assert revisions["ruff-pre-commit"] == f"v{tested[1]}"


def test_the_bug_report_asks_for_the_required_fields() -> None:
    assert all(isinstance(yaml.safe_load(path.read_text()), dict) for path in FORMS)
    form = yaml.safe_load(text(".github/ISSUE_TEMPLATE/bug_report.yml"))
    fields = {field["id"]: field for field in form["body"] if field["type"] != "markdown"}
    for name in ("command", "message", "recipe", "doctor"):
        assert fields[name]["validations"]["required"], name
    assert "edgekd doctor --json" in fields["doctor"]["attributes"]["label"]


def named_paths(page: Path) -> list[str]:
    """The quoted words that look like paths of this repository; a NAME in capitals is skipped."""
    quoted = re.findall(r"`([^`\s]+)`", page.read_text())
    return [
        word
        for word in quoted
        if (word in TOP or "/" in word)
        and not re.search(r"\b[A-Z]{4,}\b(?!\.md)|[*@$:=]", word)
        and word != "edgekd/edgekd"
    ]


@pytest.mark.parametrize("page", PAGES[:2], ids=lambda page: page.name)
def test_every_named_path_exists(page: Path) -> None:
    for word in named_paths(page):
        assert (HOME / word).exists(), word
        assert not word.endswith("/") or (HOME / word).is_dir(), word


def test_contributing_lists_every_package() -> None:
    listed = {word.strip("/") for word in named_paths(HOME / "CONTRIBUTING.md")}
    packages = {
        f"edgekd/{path.name}"
        for path in (HOME / "edgekd").iterdir()
        if path.is_dir() and path.name not in ("__pycache__", "_data")
    }
    assert packages <= listed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_has_a_target(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target
