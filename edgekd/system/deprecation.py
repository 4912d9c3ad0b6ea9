"""Keywords of an earlier release that a function still accepts, with a warning."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

Options = TypeVar("Options")


def with_deprecated(
    options: Options,
    keywords: Mapping[str, Any],
    *,
    function: str,
    renamed: Mapping[str, str] | None = None,
) -> Options:
    """`options`, a dataclass, with `keywords` that `function` took by themselves before.

    Args:
        renamed: by former name, the field's present one.

    Raises:
        TypeError: a keyword is no field of the options.
    """
    if not keywords:
        return options
    kind = type(options).__name__
    changes = {(renamed or {}).get(name, name): value for name, value in keywords.items()}
    for name in changes.keys() - {field.name for field in fields(options)}:  # type: ignore[arg-type]
        raise TypeError(f"{function}() got an unexpected keyword argument {name!r}")
    warnings.warn(
        f"{function} takes {', '.join(sorted(changes))} in options=edgekd.{kind}(...); "
        "the keywords will be removed",
        DeprecationWarning,
        stacklevel=3,
    )
    return replace(options, **changes)  # type: ignore[type-var]
