"""Signatures as a reader sees them: annotations without quotes, defaults without addresses."""

from __future__ import annotations

import inspect
from dataclasses import is_dataclass
from typing import Any


class _Text(str):
    """A string that prints without quotes."""

    __slots__ = ()
    __repr__ = str.__str__


def readable(public: Any) -> Any:
    """`public`; if it is a function or a dataclass, its signature prints as its source reads.

    `from __future__ import annotations` leaves annotations as strings, which
    `inspect.signature`, `help` and IPython print in quotes. Python 3.14 prints them without.
    """
    shown = inspect.isfunction(public) or (isinstance(public, type) and is_dataclass(public))
    if shown and "__signature__" not in vars(public):
        signature = inspect.signature(public)
        parameters = [
            entry.replace(annotation=_plain(entry.annotation), default=_named(entry.default))
            for entry in signature.parameters.values()
        ]
        public.__signature__ = signature.replace(
            parameters=parameters, return_annotation=_plain(signature.return_annotation)
        )
    return public


def _plain(annotation: Any) -> Any:
    return _Text(annotation) if isinstance(annotation, str) else annotation


def _named(default: Any) -> Any:
    """`default`; a function, or a value that prints longer than a line, as a short text."""
    if inspect.isfunction(default):
        return _Text(default.__name__)
    if len(repr(default)) > 80:
        return _Text(f"{type(default).__name__}({getattr(default, 'name', '...')!r})")
    return default
