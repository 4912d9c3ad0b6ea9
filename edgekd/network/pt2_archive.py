"""What an exported program's archive (`.pt2`) may hold: tensors and operators, nothing that runs.

`torch.export.load` trusts the archive. It unpickles objects among the constants, loads compiled
libraries, evaluates symbolic sizes as Python, looks operators up by any name below `torch`, and
pastes the names of values into generated source code. So the archive is checked first, read by
torch's own reader, so that both see the same records.
Source: torch 2.13, torch/export/pt2_archive/_package.py and torch/_export/serde/serialize.py.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

OPERATORS = frozenset(
    [f"_operator.{name}" for name in ("eq", "ne", "le", "ge", "lt", "gt", "neg", "pos", "mul",
     "add", "sub", "floordiv", "mod", "pow", "truediv", "and_", "or_", "lshift", "rshift",
     "getitem")]
    + ["math.trunc"]
    + [f"torch.sym_{name}" for name in ("not", "int", "float", "ite", "max", "min", "sqrt")]
)  # fmt: skip
"""Functions besides `torch.ops` that a program may call: those of sizes, and `getitem`."""

SIZE_FUNCTIONS = frozenset(
    ["Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow", "Max", "Min", "Mod", "Abs",
     "floor", "ceiling", "Equality", "Unequality", "LessThan", "GreaterThan", "StrictLessThan",
     "StrictGreaterThan", "Eq", "Ne", "Le", "Ge", "Lt", "Gt", "And", "Or", "Not", "Piecewise",
     "ExprCondPair", "FloorDiv", "ModularIndexing", "Where", "PythonMod", "CleanDiv", "CeilToInt",
     "FloorToInt", "CeilDiv", "LShift", "RShift", "PowByNatural", "FloatPow", "FloatTrueDiv",
     "IntTrueDiv", "IsNonOverlappingAndDenseIndicator", "TruncToFloat", "TruncToInt", "RoundToInt",
     "RoundDecimal", "ToFloat", "Identity", "OpaqueUnaryFn_sqrt"]
)  # fmt: skip
"""What a symbolic size may be built of."""

SIZE_NODES = (
    ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.keyword, ast.BinOp, ast.UnaryOp,
    ast.Compare, ast.operator, ast.unaryop, ast.cmpop, ast.Tuple,
)  # fmt: skip

CONTAINERS = (
    None, "builtins.list", "builtins.tuple", "builtins.dict", "collections.OrderedDict",
    "collections.namedtuple", "torch.Size", "builtins.slice",
)  # fmt: skip
"""The containers of inputs and outputs; others name a class of some module, which is imported."""


class UnsafeArchiveError(ValueError):
    """An archive holds something that could run code when it is read."""


def check_archive(path: Path) -> None:
    """Reads the tables of the archive at `path`; nothing in it is run.

    Raises:
        UnsafeArchiveError: an entry could run code; the message names it.
        ValueError: it is no archive of `torch.export.save`.
    """
    from torch.export.pt2_archive import constants
    from torch.export.pt2_archive._package import PT2ArchiveReader

    try:
        with PT2ArchiveReader(str(path)) as archive:
            names = archive.get_file_names()
            for name in names:
                _check_record(name, constants)
            for name in names:
                if name.startswith(constants.MODELS_DIR):
                    _check_model(json.loads(archive.read_bytes(name)), name)
                elif name.endswith("_config.json"):
                    _check_payload(json.loads(archive.read_bytes(name)), name, constants)
    except (RuntimeError, AssertionError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path.name} is no archive of torch.export.save: {error}") from error


def _check_record(name: str, constants: Any) -> None:
    last = name.rpartition("/")[2]
    objects = (constants.CUSTOM_OBJ_FILENAME_PREFIX, constants.OPAQUE_OBJ_FILENAME_PREFIX)
    if name.startswith(constants.CONSTANTS_DIR) and last.startswith(objects):
        raise UnsafeArchiveError(f"{name} is a pickled object, which could run code")
    if name.startswith(constants.AOTINDUCTOR_DIR):
        raise UnsafeArchiveError(f"{name} is compiled code")


def _check_payload(document: Any, name: str, constants: Any) -> None:
    prefixes = (constants.TENSOR_CONSTANT_FILENAME_PREFIX, constants.WEIGHT_FILENAME_PREFIX)
    for key, payload in _table(document, "config", name).items():
        record = payload.get("path_name") if isinstance(payload, dict) else None
        if not isinstance(record, str) or not record.startswith(prefixes) or "/" in record:
            raise UnsafeArchiveError(f"{name}: {key} is {record!r}, which is not a tensor")


def _table(document: Any, key: str, name: str) -> dict[str, Any]:
    table = document.get(key) if isinstance(document, dict) else None
    if not isinstance(table, dict):
        raise ValueError(f"{name} has no table {key!r}")
    return table


def _check_model(document: Any, name: str) -> None:
    for key, value in _pairs(document):
        if key in ("target", "as_operator") and isinstance(value, str):
            safe = value in OPERATORS or (
                value.startswith("torch.ops.") and all(map(str.isidentifier, value.split(".")))
            )
            what = "calls"
        elif key == "expr_str":
            safe, what = _is_size(value), "has the size"
        elif key in ("name", "as_name") and isinstance(value, str):
            safe, what = not value or value.isidentifier(), "names a value"
        elif key == "forward_arg_names":
            values = value if isinstance(value, list) else [] if value is None else [value]
            safe = all(isinstance(each, str) and each.isidentifier() for each in values)
            what = "names the arguments"
        elif key in ("in_spec", "out_spec") and isinstance(value, str):
            safe, what = _is_container(value), "has the containers"
        else:
            continue
        if not safe:
            raise UnsafeArchiveError(f"{name} {what} {str(value)[:100]!r}")


def _pairs(document: Any) -> Iterator[tuple[str, Any]]:
    """Every key of every object in `document` with its value, without recursion."""
    todo = [document]
    while todo:
        each = todo.pop()
        if isinstance(each, dict):
            yield from each.items()
            todo += each.values()
        elif isinstance(each, list):
            todo += each


def _is_size(text: Any) -> bool:
    """Whether `text` is an expression of symbols and numbers alone."""
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return False
    symbols = {
        argument
        for node in nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        if node.func.id in ("Symbol", "Float")
        for argument in node.args
    }
    for node in nodes:
        if not isinstance(node, SIZE_NODES):
            return False
        if isinstance(node, ast.Call) and not (
            isinstance(node.func, ast.Name) and node.func.id in SIZE_FUNCTIONS
        ):
            return False
        if isinstance(node, ast.Name) and node.id.startswith("_"):
            return False
        if isinstance(node, ast.Constant) and not isinstance(node.value, bool | int | float):
            plain = isinstance(node.value, str) and node.value.replace(".", "").isalnum()
            if node not in symbols or not plain:
                return False
    return True


def _is_container(text: str) -> bool:
    """Whether the tree of inputs or outputs has only plain containers, and arguments have names."""
    try:
        _, tree = json.loads(text)
    except (ValueError, TypeError):
        return False
    todo, root = [tree], True
    while todo:
        each = todo.pop()
        children = each.get("children_spec") if isinstance(each, dict) else None
        if not isinstance(children, list) or each.get("type") not in CONTAINERS:
            return False
        if "__enum__" in str(each.get("context")):
            return False
        if root and len(children) == 2 and isinstance(children[1], dict):
            # The keyword arguments: their names become source code.
            try:
                keywords = json.loads(children[1].get("context") or "[]")
            except (ValueError, TypeError):
                return False
            if not all(isinstance(key, str) and key.isidentifier() for key in keywords or ()):
                return False
        todo += children
        root = False
    return True
