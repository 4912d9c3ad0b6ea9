"""docs/reference/: a page for each loss, format, device and target, and one of every recipe key.

    python tools/reference_pages.py [--check]

Made of the docstrings, the models' field descriptions and the profiles' facts, so it says what the
code does. With --check nothing is written; pages that differ are named, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from edgekd.artifacts.scheme import SCHEMES
from edgekd.artifacts.target import Target, load_target, target_names
from edgekd.cli.result_text import target_lines
from edgekd.devices import DEVICES
from edgekd.formats import FORMATS
from edgekd.losses import LOSSES, options_of
from edgekd.recipe.schema import Recipe

HOME = Path(__file__).parents[1] / "docs" / "reference"
MADE = "<!-- made by tools/reference_pages.py; what it says is changed in the code -->\n\n"


def pages() -> dict[str, str]:
    """By its path below docs/reference/, the text of every page."""
    made = {"recipe.md": recipe_page(Recipe)}
    made |= {f"losses/{name}.md": loss_page(name) for name in LOSSES}
    made |= {f"formats/{name}.md": format_page(name) for name in FORMATS}
    made |= {f"devices/{name}.md": device_page(name) for name in DEVICES}
    made |= {f"targets/{name}.md": target_page(load_target(name)) for name in target_names()}
    made["README.md"] = index(made)
    return {name: MADE + text.rstrip() + "\n" for name, text in made.items()}


def index(made: dict[str, str]) -> str:
    """Where each page is."""
    lines = ["# Reference", "", "- [Every key of a recipe](recipe.md)"]
    for room in ("losses", "formats", "devices", "targets"):
        links = [f"[{Path(n).stem}]({n})" for n in made if n.startswith(f"{room}/")]
        lines.append(f"- {room}: {', '.join(links)}")
    return "\n".join(lines)


def loss_page(name: str) -> str:
    """A loss: what it is, and how a recipe says it."""
    function = LOSSES[name]
    keys = [f'method = "{name}"', "weight = 1.0"]
    for option, needed in options_of(function).items():
        default = inspect.signature(function).parameters[option].default
        keys.append(f"{option} = {_toml('...' if needed else default)}" + " # needed" * needed)
    table = "[[distill.losses]]\n" + "\n".join(keys)
    call = f"edgekd.losses.{name}{_signature(function)}"
    return (
        f"# {name}\n\n```toml\n{table}\n```\n\n```python\n{call}\n```\n\n"
        f"{_prose(inspect.getdoc(function) or '')}"
    )


def format_page(name: str) -> str:
    """A format: its schemes, each with its method, and what its runtime makes of zeros."""
    module = FORMATS[name]
    rows = [f"| `{scheme}` | {how} |" for scheme, how in module.SCHEMES.items()]
    absent = [scheme for scheme in SCHEMES if scheme not in module.SCHEMES]
    lines = [f"# {name}", "", _prose(inspect.getdoc(module) or ""), ""]
    lines += [f"- file: `model{module.SUFFIX}`, run by {module.RUNTIME}"]
    lines += [f'- install: `pip install -c constraints.txt "edgekd[{module.EXTRA}]"`']
    lines += [f"- needs: {', '.join(module.PACKAGES)}", "", "| scheme | how |", "|---|---|", *rows]
    lines += ["", f"Not written here: {', '.join(absent) or 'none'}.", ""]
    return "\n".join([*lines, f"Weights that are zero: {module.SPARSE}."])


def device_page(name: str) -> str:
    """A way to a device."""
    return f"# {name}\n\n{_prose(inspect.getdoc(DEVICES[name]) or '')}"


def target_page(target: Target) -> str:
    """A profile, as `edgekd targets NAME` shows it."""
    told = "\n".join(target_lines(target, list(SCHEMES)))
    return (
        f"# {target.name}\n\n{target.description or target.name}: {target.format}, "
        f"{', '.join(target.schemes)}.\n\n```\n{told}\n```"
    )


def recipe_page(model: type[BaseModel]) -> str:
    """Every key of a recipe, table by table."""
    lines = ["# Every key of a recipe", "", "`edgekd schema` prints the same as JSON Schema.", ""]
    for path, table in tables(model):
        lines += [f"## {path or 'at the top'}", "", f"{(table.__doc__ or '').strip()}", ""]
        lines += ["| key | value | without it | meaning |", "|---|---|---|---|"]
        for name, field in table.model_fields.items():
            default = "needed" if field.is_required() else _default(field)
            kind, meaning = _kind(field.annotation), meaning_of(field)
            cells = [f"`{name}`", kind, default, meaning]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)


def meaning_of(field: Any) -> str:
    """What a key means: its description, or that of the table it holds."""
    inner = next((model for model, _ in _models(field.annotation)), None)
    own = (inner.__doc__ or "").strip().splitlines() if inner is not None else []
    return field.description or (own[0] if own else "")


def tables(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """The tables of a recipe with their paths, depth first."""
    yield path, model
    for name, field in model.model_fields.items():
        for inner, suffix in _models(field.annotation):
            key = f"{path}.{name}" if path else name
            yield from tables(inner, key + suffix)


def _models(annotation: Any, suffix: str = "") -> Iterator[tuple[type[BaseModel], str]]:
    """The models in an annotation, "[]" behind one of a list and ".NAME" behind one of a table."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, suffix
        return
    origin = typing.get_origin(annotation)
    marks = {list: "[]", dict: ".NAME"}
    for part in typing.get_args(annotation):
        yield from _models(part, suffix + marks.get(origin, ""))


def _kind(annotation: Any) -> str:
    """What values a key takes, in a few words."""
    names = {str: "text", int: "whole number", float: "number", bool: "true or false",
             type(None): "", Any: "any"}  # fmt: skip
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in names:
        return names[annotation]
    if origin is typing.Literal:
        return ", ".join(f"`{each}`" for each in parts)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(filter(None, (_kind(part) for part in parts))))
    if origin is list:
        return f"list of {_kind(parts[0])}"
    if origin is dict:
        return f"table of {_kind(parts[1])}"
    if origin is typing.Annotated:
        return _kind(parts[0])
    return "table" if isinstance(annotation, type) and issubclass(annotation, BaseModel) else "..."


def _default(field: Any) -> str:
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "its own"
    return "nothing" if value is None else f"`{_toml(value)}`"


def _toml(value: Any) -> str:
    if isinstance(value, dict) and not value:
        return "{}"
    return (
        json.dumps(value)
        if isinstance(value, str | bool | list)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def _signature(function: Any) -> str:
    """The signature with its shapes, as it is written."""
    source = inspect.getsource(function)
    found = re.search(r"def \w+(\(.*?\)\s*->\s*.*?):\n", source, re.DOTALL)
    return found[1] if found else "(...)"


def _prose(text: str) -> str:
    """A docstring as Markdown: its sections as paragraphs, their entries as a list."""
    lines: list[str] = []
    for line in text.splitlines():
        section = re.fullmatch(r"(Args|Raises|Source|Differs|Returns):\s*(.*)", line)
        if section:
            lines += ["", f"**{section[1]}.** {section[2]}".rstrip()]
        elif re.match(r"    \w[\w, ]*: ", line) and not re.match(r"    https?:", line):
            name, _, told = line.strip().partition(": ")
            lines += [""] * (not lines[-1].lstrip().startswith(("-", "  "))) + [
                f"- `{name}`: {told}"
            ]
        else:
            lines.append(f"  {line.strip()}" if line.startswith("     ") else line.strip())
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def main() -> int:
    """Writes the pages, or says which differ."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    made = pages()
    there = {path.relative_to(HOME).as_posix(): path for path in HOME.rglob("*.md")}
    stale = [n for n, text in made.items() if n not in there or there[n].read_text() != text]
    stale += [name for name in there if name not in made]
    for name in stale:
        print(name)
        if check:
            continue
        if name not in made:
            there[name].unlink()
            continue
        (HOME / name).parent.mkdir(parents=True, exist_ok=True)
        (HOME / name).write_text(made[name])
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
