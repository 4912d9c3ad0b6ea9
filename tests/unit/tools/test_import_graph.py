"""The tool that computes the floors of the package and follows one artifact through it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).parents[3] / "tools"


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TOOLS))
    import import_graph

    return import_graph


def test_a_room_lies_one_floor_above_the_highest_that_it_imports_from(tool: ModuleType) -> None:
    graph = {"cli": {"run": {"a.py"}, "errors": {"b.py"}}, "run": {"errors": {"c.py"}}}
    assert tool.floors_of({**graph, "errors": {}}) == {"errors": 0, "run": 1, "cli": 2}


def test_rooms_that_import_each_other_share_a_floor(tool: ModuleType) -> None:
    graph = {"one": {"two": {"a.py"}}, "two": {"one": {"b.py"}, "low": {"b.py"}}, "low": {}}
    assert tool.floors_of({**graph, "top": {"one": {"c.py"}}}) == {
        "low": 0,
        "one": 1,
        "two": 1,
        "top": 2,
    }


def test_the_package_has_nine_floors_and_no_import_that_runs_upward(
    tool: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    tool.print_floors(files=True)
    printed = capsys.readouterr().out
    assert "\n9 floors, " in printed
    assert printed.endswith("imports that run upward: 0\n")


def test_values_in_containers_are_seen(tool: ModuleType) -> None:
    values = ["a", ("b", {"key": ["c", {"d"}]})]
    assert list(tool.flat(values)) == ["a", "b", "c", {"d"}]
