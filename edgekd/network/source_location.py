"""Where in a network an error came from: the module, and the user's own line."""

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
        place: file and line, of the innermost line that is not torch's own; empty where all are.
        line: what stands there.
    """

    module: str
    place: str
    line: str

    def __str__(self) -> str:
        return f"module {self.module}, {self.place}" if self.place else f"module {self.module}"


def origin(error: BaseException, wrapper: type[nn.Module] | None = None) -> Origin | None:
    """Where `error`, or what it was raised from, came out of a network; None where of none.

    Args:
        wrapper: what the network was called through, as its attribute `module`; without one the
            first module that was called is the network.
    """
    seen: BaseException | None = error
    while seen is not None:
        found = _innermost(seen, wrapper)
        if found is not None:
            return found
        seen = seen.__cause__ or seen.__context__
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
    """Whether `code` is of a method of `owner`, not of a function that was given it."""
    return getattr(getattr(type(owner), code.co_name, None), "__code__", None) is code


def _paths(root: object) -> dict[int, str]:
    assert isinstance(root, nn.Module)
    return {id(each): name or type(root).__name__ for name, each in root.named_modules()}
