"""The one import of optional packages."""

from __future__ import annotations

from importlib import import_module, metadata
from importlib.util import find_spec
from types import ModuleType

from edgekd.errors import Fault, MissingPackageError


def _fault(module: str, extra: str) -> Fault:
    return Fault(
        what=f"The package {module.partition('.')[0]} is not installed.",
        at=f"import {module}",
        got=f"no module named {module.partition('.')[0]}",
        expected=f"the packages of the extra '{extra}'",
        fix=f'pip install -c constraints.txt "edgekd[{extra}]"',
    )


def need(module: str, *, extra: str) -> ModuleType:
    """The imported `module`, which the optional dependencies `extra` bring.

    Raises:
        MissingPackageError: `module` itself is not installed, or is and does not load, as where
            torchvision is of another build than torch. A package that is installed but fails to
            import something else raises that ImportError unchanged: it is another fault.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        # Only the package we asked for is ours to explain, not one missing deep inside it.
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise
        raise MissingPackageError(_fault(module, extra)) from error
    except (OSError, RuntimeError) as error:
        raise MissingPackageError(
            Fault(
                what=f"The package {module.partition('.')[0]} is installed, and does not load.",
                at=f"import {module}",
                got=f"{type(error).__name__}: {str(error).strip()[:500]}",
                expected=f"packages of the extra '{extra}' that fit each other, and torch",
                fix="install torchvision, if it is that, from where torch came from: "
                "https://download.pytorch.org/whl/cpu has both for the CPU"
                if "torchvision" in str(error)
                else f'pip install --force-reinstall -c constraints.txt "edgekd[{extra}]"',
            )
        ) from error


def missing(modules: tuple[str, ...], *, extra: str) -> Fault | None:
    """The fault of the first of `modules` that is not installed, found without importing it."""
    return next((_fault(module, extra) for module in modules if find_spec(module) is None), None)


def tool_versions(modules: tuple[str, ...]) -> dict[str, str | None]:
    """The installed versions of the packages that bring `modules`, and of torch."""
    found: dict[str, str | None] = {}
    for name in ("torch", *(module.replace("_", "-") for module in modules)):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found
