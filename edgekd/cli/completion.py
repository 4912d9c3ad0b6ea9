"""Names that the shell completes, and that help texts list; loads no torch."""

from __future__ import annotations

from importlib.util import find_spec
from pkgutil import iter_modules

STAGES = (
    "train",
    "distill",
    "prune",
    "fold",
    "quantize",
    "export",
    "verify",
    "ladder",
    "sensitivity",
    "benchmark",
    "choose",
    "route",
    "bundle",
)
"""The stages of a run, in order."""

KINDS = ("folder", "archive", "android", "swift", "linux")
SELECTIONS = ("random", "stratified", "first", "k-centre", "highest-loss")
TASKS = ("classification", "regression", "embedding", "segmentation", "token-classification")


def stages() -> list[str]:
    """The stages of a run."""
    return list(STAGES)


def formats() -> list[str]:
    """The built-in formats: each is a package of `edgekd.formats`, which is not imported here."""
    found = find_spec("edgekd.formats")
    folders = found.submodule_search_locations if found else None
    return [module.name for module in iter_modules(folders) if module.ispkg]


def kinds() -> list[str]:
    """The built-in kinds of a bundle."""
    return list(KINDS)


def selections() -> list[str]:
    """How calibration samples can be selected."""
    return list(SELECTIONS)


def tasks() -> list[str]:
    """The built-in tasks."""
    return list(TASKS)


def schemes() -> list[str]:
    """The schemes of quantization."""
    from edgekd.artifacts.scheme import SCHEMES

    return list(SCHEMES)


def targets() -> list[str]:
    """The shipped target profiles."""
    from edgekd.artifacts.target import target_names

    return target_names()
