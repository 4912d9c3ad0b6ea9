"""Import optional packages, and report those that are missing."""

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
    """Import `module`, which belongs to the optional dependencies `extra`.

    Raises:
        MissingPackageError: `module` is not installed, or is installed but does not load, for
            example if torchvision is of another build than torch. If an installed package fails
            to import another one, that ImportError is raised unchanged.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        # A package that is missing deeper inside is another fault.
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise
        raise MissingPackageError(_fault(module, extra)) from error
    except (OSError, RuntimeError) as error:
        raise MissingPackageError(
            Fault(
                what=f"The package {module.partition('.')[0]} is installed but does not load.",
                at=f"import {module}",
                got=f"{type(error).__name__}: {str(error).strip()[:500]}",
                expected=f"packages of the extra '{extra}' that match each other and torch",
                fix="install torchvision from the index that torch came from: "
                "https://download.pytorch.org/whl/cpu has both for the CPU"
                if "torchvision" in str(error)
                else f'pip install --force-reinstall -c constraints.txt "edgekd[{extra}]"',
            )
        ) from error


def missing(modules: tuple[str, ...], *, extra: str) -> Fault | None:
    """The fault of the first of `modules` that is not installed, without importing any."""
    return next((_fault(module, extra) for module in modules if find_spec(module) is None), None)


def tool_versions(modules: tuple[str, ...]) -> dict[str, str | None]:
    """The installed versions of torch and of the packages of `modules`."""
    versions: dict[str, str | None] = {}
    for name in ("torch", *(module.replace("_", "-") for module in modules)):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions
