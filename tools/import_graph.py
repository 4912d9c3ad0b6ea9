"""The floors of edgekd/, computed from its imports, and the files that one artifact passes.

    python tools/import_graph.py [--files]          # floors, imports between rooms, sizes of files
    python tools/import_graph.py --path [--files]   # the files on one artifact's way

A room is a package or a module directly in edgekd/. A room lies one floor above the highest room
that it imports from; imports inside functions and under TYPE_CHECKING count too. Rooms that import
each other share a floor, and their imports of each other are listed as upward. `edgekd/__init__.py`
and `edgekd/__main__.py` belong to no room.

--path runs a recipe with one candidate (one target, fp32, exported in the main process) under
`sys.setprofile`, until the bundle stage returns. A file of edgekd/ is on the artifact's way if one
of its functions receives or returns the candidate, its Artifact, or the path of its file or of the
copy in the bundle: as an argument or result, or in a tuple, list or dict. A path is an absolute or
relative path that ends in the name of the file. Methods of the two classes do not count for their
own `self`. Other processes, in which runtimes run, are not seen. Files that only receive the whole
pipeline state, in which the candidate lies, are counted in a line of their own.

To count in another checkout, put it first: PYTHONPATH=/other/checkout python tools/import_graph.py
"""

from __future__ import annotations

import argparse
import ast
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

# Behind everything else, so that PYTHONPATH decides which edgekd is read.
sys.path.append(str(Path(__file__).parents[1]))

import edgekd

PACKAGE = Path(edgekd.__file__).parent
CANDIDATE = ("edgekd.evidence.candidate:Candidate", "edgekd.evidence:Row")
ARTIFACT = ("edgekd.artifacts.artifact:Artifact", "edgekd.artifact:Artifact")
STATE = ("edgekd.pipeline.candidates.state:PipelineState", "edgekd.work:Work")
"""The classes by their names today, then by those of earlier layouts."""

Graph = dict[str, dict[str, set[str]]]
"""By room, the rooms that it imports from, each with the files that do."""


def module_name(path: Path) -> str:
    """The dotted name of the module at `path`, without the package's own name."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imported_rooms(path: Path, rooms: Iterable[str]) -> set[str]:
    """The rooms that the file at `path` imports from."""
    names: list[str] = []
    package = ("edgekd", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            start = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (start, node.module)))
            names += [f"{module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    parts = [name.split(".") for name in names]
    return {part[1] for part in parts if part[0] == "edgekd" and part[1:2] != []} & set(rooms)


def room_graph() -> tuple[dict[str, list[Path]], Graph]:
    """The files of each room, and the imports between rooms."""
    rooms: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        room = module_name(path).partition(".")[0]
        if room not in ("__init__", "__main__"):
            rooms.setdefault(room, []).append(path)
    graph: Graph = {room: {} for room in rooms}
    for room, paths in rooms.items():
        for path in paths:
            for imported in imported_rooms(path, rooms) - {room}:
                graph[room].setdefault(imported, set()).add(str(path.relative_to(PACKAGE)))
    return rooms, graph


def below(room: str, graph: Graph) -> set[str]:
    """All rooms that `room` imports from, directly or through others."""
    reached: set[str] = set()
    pending = [room]
    while pending:
        for imported in graph[pending.pop()]:
            if imported not in reached:
                reached.add(imported)
                pending.append(imported)
    return reached


def floors_of(graph: Graph) -> dict[str, int]:
    """The floor of each room; rooms that import each other in a circle share one."""
    reached = {room: below(room, graph) for room in graph}
    floors: dict[str, int] = {}

    def floor(room: str) -> int:
        if room not in floors:
            circle = {other for other in reached[room] if room in reached[other]} | {room}
            lower = {imported for member in circle for imported in graph[member]} - circle
            floors.update(dict.fromkeys(circle, 1 + max(map(floor, lower), default=-1)))
        return floors[room]

    for room in graph:
        floor(room)
    return floors


def print_floors(*, files: bool) -> None:
    """Prints rooms by floor, imports that run upward, and the sizes of files."""
    rooms, graph = room_graph()
    floors = floors_of(graph)
    for floor in sorted(set(floors.values()), reverse=True):
        names = [room for room in rooms if floors[room] == floor]
        print(f"{floor:2}  " + "  ".join(f"{name} ({len(rooms[name])})" for name in names))
    upward = [
        f"{file} imports from {imported}"
        for room, imports in graph.items()
        for imported, importers in imports.items()
        if floors[imported] >= floors[room]
        for file in sorted(importers)
    ]
    lines = {path: len(path.read_text().splitlines()) for path in sorted(PACKAGE.rglob("*.py"))}
    largest = max(lines, key=lambda path: lines[path])
    counts = [len(paths) for paths in rooms.values()]
    alone = [path for path in PACKAGE.glob("*.py") if path.name != "__init__.py"]
    print(f"{len(set(floors.values()))} floors, {len(rooms)} rooms, {len(lines)} files, "
          f"{len(alone) + 1} of them directly in edgekd/")  # fmt: skip
    print(f"files per room: median {statistics.median(counts):g}, at most {max(counts)}")
    print(f"lines per file: median {statistics.median(lines.values()):g}, "
          f"largest {lines[largest]} ({largest.relative_to(PACKAGE)})")  # fmt: skip
    print(f"imports that run upward: {len(upward)}")
    for line in upward if files else ():
        print(f"  {line}")


def known_class(names: Iterable[str]) -> type:
    """The first class of `names` ("module:Class") that this checkout has."""
    for name in names:
        module, _, attribute = name.partition(":")
        try:
            return getattr(import_module(module), attribute)  # type: ignore[no-any-return]
        except (ImportError, AttributeError):
            continue
    raise SystemExit(f"this checkout has none of {', '.join(names)}")


class Trace:
    """The files of edgekd/ whose functions receive or return what is looked for.

    Attributes:
        direct: files in which it is the Candidate or the Artifact, in the order of the run.
        holders: files in which it is the state of the pipeline.
        strings: by file, the strings and paths that its functions received or returned.
        names: the names of the artifact's files.
    """

    def __init__(self) -> None:
        self.candidate, self.artifact, self.state = map(known_class, (CANDIDATE, ARTIFACT, STATE))
        self.direct: dict[str, None] = {}
        self.holders: dict[str, None] = {}
        self.strings: dict[str, set[str]] = {}
        self.names: set[str] = set()
        self.ended = False

    def __call__(self, frame: FrameType, event: str, result: Any) -> None:
        code = frame.f_code
        if self.ended or event not in ("call", "return"):
            return
        if not code.co_filename.startswith(f"{PACKAGE}/"):
            return
        file = str(Path(code.co_filename).relative_to(PACKAGE))
        if event == "return" and code.co_name == "step":
            self.ended = file.endswith("stages/bundle.py")
        values: list[Any] = [result]
        if event == "call":
            count = code.co_argcount + code.co_kwonlyargcount
            count += bool(code.co_flags & 4) + bool(code.co_flags & 8)  # *args and **kwargs
            values = [frame.f_locals.get(name) for name in code.co_varnames[:count]]
            owner = frame.f_locals.get("self")
            if isinstance(owner, self.candidate | self.artifact):
                values = values[1:]
        for value in flat(values):
            if isinstance(value, self.candidate):
                self.direct[file] = None
            elif isinstance(value, self.artifact):
                self.direct[file] = None
                self.names.add(value.path.name)
            elif isinstance(value, self.state):
                self.holders[file] = None
            elif isinstance(value, str | Path):
                self.strings.setdefault(file, set()).add(str(value))

    def by_path(self) -> list[str]:
        """The files that receive or return only a path of the artifact."""
        endings = tuple(f"/{name}" for name in self.names)
        files = [
            file
            for file, strings in self.strings.items()
            if any(string.endswith(endings) for string in strings)
        ]
        return [file for file in files if file not in self.direct]


def flat(values: Iterable[Any], depth: int = 3) -> Iterator[Any]:
    """The values, and those in tuples, lists and dicts among them."""
    for value in values:
        if isinstance(value, dict) and depth:
            yield from flat(value.values(), depth - 1)
        elif isinstance(value, tuple | list) and depth:
            yield from flat(value, depth - 1)
        else:
            yield value


def trace_run() -> Trace:
    """The trace of a run of the tests' tiny recipe, with a bundle."""
    import tomli_w

    from tests.support.project import DATA, MODELS, tiny_recipe

    trace = Trace()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "data.py").write_text(DATA)
        (folder / "models.py").write_text(MODELS)
        recipe = folder / "recipe.toml"
        recipe.write_text(tomli_w.dumps({**tiny_recipe(), "bundle": {}}))
        threading.setprofile(trace)
        sys.setprofile(trace)
        try:
            result = edgekd.run(recipe, folder / "runs")
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
    assert result.passed
    return trace


def print_path(*, files: bool) -> None:
    """Prints how many files one artifact passes, and which."""
    trace = trace_run()
    only_path = trace.by_path()
    way = {*trace.direct, *only_path}
    parts = {
        "receive or return the candidate or its artifact": [*trace.direct],
        "receive or return only the path of its file": only_path,
        "receive or return only the state of the pipeline": [
            file for file in trace.holders if file not in way
        ],
    }
    print(f"files on the artifact's way: {len(way)}")
    for text, names in parts.items():
        print(f"files that {text}: {len(names)}")
        for name in names if files else ():
            print(f"  {name}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--path", action="store_true", help="follow one artifact instead")
    parser.add_argument("--files", action="store_true", help="list the files, not only their count")
    args = parser.parse_args()
    (print_path if args.path else print_floors)(files=args.files)


if __name__ == "__main__":
    main()
