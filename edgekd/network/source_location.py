"""The source location of an error in a network: the module, and the line of the user's code."""

from __future__ import annotations

import linecache
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import CodeType

import torch
from torch import nn

TORCH = str(Path(torch.__file__).parent)


@dataclass(frozen=True)
class Origin:
    """The innermost module of a network that was being called.

    Attributes:
        module: its path, or the type of the network itself.
        place: file and line number of the innermost line outside torch; empty if there is none.
        line: the source code of that line.
    """

    module: str
    place: str
    line: str

    def __str__(self) -> str:
        return f"module {self.module}, {self.place}" if self.place else f"module {self.module}"


def origin(error: BaseException, wrapper: type[nn.Module] | None = None) -> Origin | None:
    """The location in a network of `error` or of its causes; None if they have none.

    Args:
        wrapper: the type of the module that holds the network as its attribute `module`; without
            one, the first module that was called is the network.
    """
    current: BaseException | None = error
    while current is not None:
        location = _innermost(current, wrapper)
        if location is not None:
            return location
        current = current.__cause__ or current.__context__
    return None


def _innermost(error: BaseException, wrapper: type[nn.Module] | None) -> Origin | None:
    names: dict[int, str] = {}
    found, place, line = "", "", ""
    for frame, number in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        owner = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
        if isinstance(owner, nn.Module) and _is_method(owner, code):
            if wrapper is not None and isinstance(owner, wrapper):
                names, found = _paths(owner.module), ""
                continue
            if wrapper is None and not names:
                names = _paths(owner)
            found = names.get(id(owner), found)
        if found and not code.co_filename.startswith((TORCH, "<")):
            place = f"{code.co_filename}:{number}"
            line = linecache.getline(code.co_filename, number).strip()
    return Origin(found, place, line) if found else None


def _is_method(owner: nn.Module, code: CodeType) -> bool:
    """Whether `code` belongs to a method of `owner`, not to a function that takes it."""
    return getattr(getattr(type(owner), code.co_name, None), "__code__", None) is code


def _paths(root: object) -> dict[int, str]:
    assert isinstance(root, nn.Module)
    return {id(each): name or type(root).__name__ for name, each in root.named_modules()}
