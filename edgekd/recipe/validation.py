"""What pydantic finds wrong with a recipe, told in five parts."""

from __future__ import annotations

import types
import typing
from typing import Annotated, Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from edgekd.errors import Fault, listed, nearest

_EXPECTED = {
    "string_type": "a string",
    "int_type": "a whole number",
    "too_short": "at least one entry",
}
_PATTERNS = {
    r"^[A-Za-z0-9][A-Za-z0-9._-]*$": "letters, digits, '.', '_' and '-', the first a letter or "
    "digit",
}


def validation_faults(
    error: ValidationError,
    model: type[BaseModel],
    document: dict[str, Any],
    source: str,
    *,
    noun: str = "recipe",
) -> list[Fault]:
    """Every fault of `document`, which is no `model`, with its key, value, rule and nearest key.

    Args:
        source: the document's name in messages.
        noun: what it is called there.
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
        return Fault(
            what=f"The {noun} has no key {key!r}.",
            at=at,
            got=f"{location[-1]} = {got!r}",
            expected=allowed,
            fix=f"did you mean {close!r}?" if close else f"remove {str(location[-1])!r}",
        )
    if detail["type"] == "no_stage":
        return Fault(
            what=f"This edgekd has no stage for {context['refused']!r} yet.",
            at=at,
            got=repr(got),
            expected=detail["msg"],
            fix=f"remove {context['refused']} from {source}",
        )
    if detail["type"] == "missing":
        return Fault(
            what=f"The {noun} has no {key!r}.",
            at=at,
            got="nothing",
            expected=detail["msg"] if "key" in context else _described(model, location),
            fix=f"add {key} to {source}",
        )
    expected = _EXPECTED.get(detail["type"]) or detail["msg"].removeprefix("Input should be ")
    if detail["type"] == "string_pattern_mismatch":
        expected = _PATTERNS.get(context["pattern"]) or _described(model, location)
    close = context.get("nearest") or (
        nearest(
            str(got), str(context["expected"]).replace("'", "").replace(" or ", ", ").split(", ")
        )
        if detail["type"] == "literal_error"
        else None
    )
    return Fault(
        what=f"The {noun}'s {key!r} is not valid.",
        at=at,
        got=repr(got),
        expected=expected,
        fix=f"did you mean {close!r}?" if close else f"change {key} in {source}",
    )


def _key_path(location: list[Any]) -> str:
    path = ""
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        else:
            path += f".{step}" if path else str(step)
    return path or "(the whole recipe)"


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
    found = _model_at(model, location)
    return list(found.model_fields) if hasattr(found, "model_fields") else ["no key here"]


def _described(model: type[BaseModel], location: list[Any]) -> str:
    parent = _model_at(model, location[:-1])
    entry = parent.model_fields.get(str(location[-1])) if hasattr(parent, "model_fields") else None
    if entry is None:
        return "a value"
    kind = _plain(entry.annotation)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        doc = (kind.__doc__ or "").strip().splitlines()[0].rstrip(".").lower()
        return f"a table [{_key_path(location)}]: {doc}"
    names = {"str": "a string", "int": "a whole number", "float": "a number"}
    told = names.get(getattr(kind, "__name__", ""), "a value")
    return f"{told}: {entry.description}" if entry.description else told
