"""The validation errors of pydantic as faults with five parts."""

from __future__ import annotations

import types
import typing
from typing import Annotated, Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from edgekd.errors import Fault, listed, nearest

_EXPECTED = {
    "string_type": "a string",
    "int_type": "an integer",
    "float_type": "a number",
    "bool_type": "a boolean: true or false",
    "list_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "finite_number": "a finite number",
    "too_short": "at least one entry",
}
"""What pydantic's types of error expect, in the words of the reference."""

_LIMITS = {
    "greater_than_equal": "ge",
    "greater_than": "gt",
    "less_than_equal": "le",
    "less_than": "lt",
}
"""The bound that each of pydantic's types of error reports."""

_PATTERNS = {
    r"^[A-Za-z0-9][A-Za-z0-9._-]*$": "letters, digits, '.', '_' and '-', starting with a letter or "
    "digit",
    r"^[1-9]\d*:[1-9]\d*$": 'two integers, e.g. "2:4"',
}
_TYPES = {"str": "a string", "int": "an integer", "float": "a number", "bool": "a boolean"}


def validation_faults(
    error: ValidationError,
    model: type[BaseModel],
    document: dict[str, Any],
    source: str,
    *,
    noun: str = "recipe",
) -> list[Fault]:
    """The faults of `document`, which `model` refused, each with key, value, rule and nearest key.

    Args:
        source: the name of the document in messages.
        noun: what the document is called in messages.
    """
    return [_fault(detail, model, source, document, noun) for detail in error.errors()]


def _fault(
    detail: ErrorDetails,
    model: type[BaseModel],
    source: str,
    document: dict[str, Any],
    noun: str,
) -> Fault:
    context = detail.get("ctx") or {}
    location = [*detail["loc"], *(str(context["key"]).split(".") if "key" in context else [])]
    key = _key_path(location)
    got = _value_at(document, location)
    at = f"{source}:{key}"
    if detail["type"] in ("extra_forbidden", "unknown_key"):
        keys = _keys_at(model, location[:-1])
        allowed = str(context["allowed"]) if "allowed" in context else listed(keys)
        close = context["nearest"] if "nearest" in context else nearest(str(location[-1]), keys)
        without_effect = "allowed" in context and context.get("nearest") is None
        known = without_effect and str(location[-1]) in keys
        return Fault(
            what=f"The key {key!r} has no effect here." if known else f"There is no key {key!r}.",
            at=at,
            got=f"{location[-1]} = {got!r}",
            expected=allowed,
            fix=f"did you mean {close!r}?" if close else f"remove {key} from {source}",
        )
    if detail["type"] == "no_stage":
        return Fault(
            what=f"edgekd has no stage {context['refused']!r}.",
            at=at,
            got=repr(got),
            expected=detail["msg"],
            fix=f"remove {context['refused']} from {source}",
        )
    if detail["type"] == "missing":
        return Fault(
            what=f"The {noun} has no {key!r}, which is required.",
            at=at,
            got="nothing",
            expected=detail["msg"] if "key" in context else _described(model, location),
            fix=f"add {key} to {source}",
        )
    close = context.get("nearest") or _nearest_literal(detail, got)
    return Fault(
        what=f"The value of {key!r} is not valid.",
        at=at,
        got=repr(got),
        expected=_expected(detail, model, location),
        fix=f"did you mean {close!r}?" if close else f"change {key} in {source}",
    )


def _expected(detail: ErrorDetails, model: type[BaseModel], location: list[Any]) -> str:
    """The rule that a value breaks."""
    kind, context = detail["type"], detail.get("ctx") or {}
    if kind in _EXPECTED:
        return _EXPECTED[kind]
    if kind in _LIMITS:
        bounds = _bounds_at(model, location) or {_LIMITS[kind]: context[_LIMITS[kind]]}
        return f"{_type_at(model, location)} {_range(bounds)}"
    if kind == "string_pattern_mismatch":
        return _PATTERNS.get(context["pattern"]) or _described(model, location)
    if kind == "literal_error":
        return f"one of {context['expected']}"
    return detail["msg"].removeprefix("Input should be ").removeprefix("Value error, ")


def _nearest_literal(detail: ErrorDetails, got: Any) -> str | None:
    """The allowed value of a literal that `got` was probably meant to be."""
    if detail["type"] != "literal_error":
        return None
    allowed = str((detail.get("ctx") or {})["expected"])
    return nearest(str(got), allowed.replace("'", "").replace(" or ", ", ").split(", "))


def _bounds_at(model: type[BaseModel], location: list[Any]) -> dict[str, float]:
    """The bounds of the number at `location`: ge, gt, le and lt."""
    parent = _model_at(model, location[:-1])
    entry = getattr(parent, "model_fields", {}).get(str(location[-1]))
    limits = [(name, getattr(each, name, None)) for each in (entry.metadata if entry else ())
              for name in _LIMITS.values()]  # fmt: skip
    return {name: value for name, value in limits if value is not None}


def _range(bounds: dict[str, float]) -> str:
    """The bounds of a number as a phrase, e.g. "in (0, 1]"."""
    low = bounds.get("ge", bounds.get("gt"))
    high = bounds.get("le", bounds.get("lt"))
    if low is not None and high is not None:
        opening, closing = "[" if "ge" in bounds else "(", "]" if "le" in bounds else ")"
        return f"in {opening}{low:g}, {high:g}{closing}"
    if low is not None:
        return f"of at least {low:g}" if "ge" in bounds else f"over {low:g}"
    return f"of at most {high:g}" if "le" in bounds else f"below {high:g}"


def _key_path(location: list[Any]) -> str:
    path = ""
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        else:
            path += f".{step}" if path else str(step)
    return path or "(the whole document)"


def _value_at(document: Any, location: list[Any]) -> Any:
    for step in location:
        try:
            document = document[step]
        except (KeyError, IndexError, TypeError):
            return None
    return document


def _model_at(model: Any, location: list[Any]) -> Any:
    """The pydantic model, or other type, that `location` leads to from `model`."""
    for step in location:
        if isinstance(step, int):
            model = next(iter(typing.get_args(_plain(model))), None)
        elif typing.get_origin(_plain(model)) is dict:
            model = typing.get_args(_plain(model))[1]
        elif isinstance(model, type) and issubclass(model, BaseModel):
            entry = model.model_fields.get(str(step))
            model = _plain(entry.annotation) if entry else None
        else:
            return None
    return _plain(model)


def _plain(annotation: Any) -> Any:
    """`annotation` without `Annotated` and without `| None`."""
    if typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        options = [entry for entry in typing.get_args(annotation) if entry is not type(None)]
        annotation = options[0] if len(options) == 1 else annotation
    return annotation


def _keys_at(model: Any, location: list[Any]) -> list[str]:
    table = _model_at(model, location)
    return list(table.model_fields) if hasattr(table, "model_fields") else ["no key here"]


def _type_at(model: type[BaseModel], location: list[Any]) -> str:
    """The type of the value at `location`, e.g. "an integer"."""
    return _TYPES.get(getattr(_model_at(model, location), "__name__", ""), "a value")


def _described(model: type[BaseModel], location: list[Any]) -> str:
    """The type of the missing key at `location`, with its description."""
    parent = _model_at(model, location[:-1])
    entry = parent.model_fields.get(str(location[-1])) if hasattr(parent, "model_fields") else None
    if entry is None:
        return "a value"
    kind = _plain(entry.annotation)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        first = (kind.__doc__ or "").strip().splitlines()[0]
        return f"a table [{_key_path(location)}]: {first}"
    name = "a list" if typing.get_origin(kind) is list else _type_at(model, location)
    return f"{name}: {entry.description}" if entry.description else name
