"""References to Python in a recipe: "package:callable", "path/file.py:callable"."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from edgekd.errors import Fault, RecipeError, nearest
from edgekd.system.files import digest, path_digest


def resolve(reference: str, *, base: Path, at: str) -> Callable[..., Any]:
    """The callable that "package.module:name" or "path/file.py:name" names.

    A file is imported once, with its folder at the end of the import path, so that it can import
    modules beside it.

    Raises:
        RecipeError: the form is wrong, or the file or package is missing, fails to import, or has
            no such name.
    """
    value: Callable[..., Any] = resolve_value(reference, "callable", callable, base=base, at=at)
    return value


def is_reference(name: str) -> bool:
    """Whether `name` is a reference to Python, not a name in a table of edgekd."""
    return ":" in name


def reference_digest(reference: str, *, base: Path, at: str) -> str:
    """The sha256 of the file that `reference` names, which results depend on.

    Raises:
        RecipeError: the file or package is missing or fails.
    """
    where = reference.partition(":")[0]
    if where.endswith(".py"):
        return path_digest(existing(base / where, at))
    file = getattr(_import(where, base, at), "__file__", None)
    return path_digest(Path(file)) if file else digest(where)


def resolve_value(
    reference: str, kind: str, fits: Callable[[Any], bool], *, base: Path, at: str
) -> Any:
    """The value that "package.module:name" or "path/file.py:name" names.

    Args:
        kind: what the value must be, for messages, such as "callable".
        fits: whether a value is of this kind.

    Raises:
        RecipeError: see `resolve`.
    """
    where, _, name = reference.partition(":")
    if not where or not name:
        raise RecipeError(
            Fault(
                what=f"{reference!r} is not a reference.",
                at=at,
                got=repr(reference),
                expected='"package.module:callable", "path/file.py:callable", a ".pt2", '
                '"timm:NAME" or "hf:FOLDER"',
                fix=f'write "{where or "path/file.py"}:NAME"',
            )
        )
    module = _import(where, base, at)
    if not fits(getattr(module, name, None)):
        known = [key for key, value in vars(module).items() if fits(value)]
        close = nearest(name, known)
        raise RecipeError(
            Fault(
                what=f"{where} has no {kind} {name!r}.",
                at=at,
                got=repr(name),
                expected=f"one of {', '.join(sorted(known)) or f'its {kind}s (it has none)'}",
                fix=f"did you mean {close!r}?" if close else f"define {name} in {where}",
            )
        )
    return getattr(module, name)


_SOURCES: dict[str, str] = {}
"""The digest of each user module's file when it was loaded, even if the file changes later."""


def sources_digest(base: Path) -> str:
    """The digest of the sources of all loaded modules that lie under `base`.

    Installed packages do not count: their versions are in the run's environment.
    """
    root = base.resolve()
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not file or name in _SOURCES or "site-packages" in file:
            continue
        path = Path(file)
        if path.suffix == ".py" and path.is_relative_to(root) and path.is_file():
            _SOURCES[name] = path_digest(path)
    return digest(
        sorted(
            known
            for name, known in _SOURCES.items()
            if name in sys.modules and Path(str(sys.modules[name].__file__)).is_relative_to(root)
        )
    )


def call_user(function: Callable[..., Any], at: str, **options: Any) -> Any:
    """Call the user's `function`.

    Raises:
        RecipeError: it raised an exception, which is the cause.
    """
    try:
        return function(**options)
    except Exception as error:
        raise RecipeError(
            Fault(
                what=f"{getattr(function, '__name__', function)} failed.",
                at=at,
                got=f"{type(error).__name__}: {error}",
                expected=f"a callable that takes {inspect.signature(function)}",
                fix="fix it, or its options in the recipe; the traceback is in the log",
            )
        ) from error


def _import(where: str, base: Path, at: str) -> ModuleType:
    try:
        if not where.endswith(".py"):
            return importlib.import_module(where)
        path = existing(base / where, at).resolve()
        # The name depends on the contents: an edited file is another module.
        identity = f"{path} {path_digest(path)}"
        name = f"edgekd_user_{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
        if name in sys.modules:
            return sys.modules[name]
        if str(path.parent) not in sys.path:
            sys.path.append(str(path.parent))
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} cannot be imported")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    except RecipeError:
        raise
    except Exception as error:
        raise RecipeError(
            Fault(
                what=f"{where} cannot be imported.",
                at=at,
                got=f"{type(error).__name__}: {error}",
                expected="a Python file or package that imports",
                fix="fix it, or install the packages that it imports",
            )
        ) from error
    return module


def existing(path: Path, at: str) -> Path:
    """`path`, if it exists.

    Raises:
        RecipeError: it does not exist; the nearest name in its folder is suggested.
    """
    if path.exists():
        return path
    folder = path.parent
    beside = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    close = nearest(path.name, beside)
    raise RecipeError(
        Fault(
            what=f"There is no file {path}.",
            at=at,
            got=str(path),
            expected="a path relative to the recipe",
            fix=f"did you mean {close!r}?" if close else "check the path",
        )
    )
