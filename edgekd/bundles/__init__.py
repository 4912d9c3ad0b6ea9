"""Packages for app builds, one file per kind.

The folder is the bundle: models, manifest, golden vectors, model card and checksums. Every other
kind is packed from a bundle folder, during the run or later, and adds nothing to its contents.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol

from edgekd.bundles import android, archive, folder, linux, swift
from edgekd.bundles.manifest import Manifest
from edgekd.errors import Fault


class BundleKind(Protocol):
    """A module that packs one kind of bundle.

    It may also define

    - `missing_requirement() -> Fault | None`: the program or package that must be installed first;
    - `OPTIONS`, a dict from each key of its recipe table `[bundle.KIND]` to a description. `pack`
      finds the values in `manifest.options[KIND]`. Kinds that come with edgekd have their own
      tables in the recipe instead.

    Attributes:
        FORMATS: the formats it packs; models of other formats are left out. None: all formats.
    """

    @property
    def FORMATS(self) -> tuple[str, ...] | None: ...

    def pack(self, bundle: Path, manifest: Manifest, out: Path) -> None:
        """Write the package of the folder `bundle` into the empty folder `out`."""


BUNDLES: dict[str, BundleKind] = {
    "folder": folder,
    "archive": archive,
    "android": android,
    "swift": swift,
    "linux": linux,
}
"""The kinds that come with edgekd, by name."""


def bundle_names() -> list[str]:
    """All kinds: those of `BUNDLES`, and entry points `edgekd.bundles` of installed packages."""
    return [*BUNDLES, *(entry.name for entry in entry_points(group="edgekd.bundles"))]


def find_bundle(name: str) -> BundleKind:
    """The kind `name`.

    Raises:
        KeyError: there is no such kind.
    """
    if name in BUNDLES:
        return BUNDLES[name]
    entries = {entry.name: entry for entry in entry_points(group="edgekd.bundles")}
    module: BundleKind = entries[name].load()
    return module


def packs_format(kind: str, format: str) -> bool:
    """Whether a bundle of the kind `kind` packs models of `format`."""
    formats = find_bundle(kind).FORMATS
    return formats is None or format in formats


def missing_requirement(name: str) -> Fault | None:
    """The fault that reports what must be installed before kind `name` can be packed, or None."""
    check = getattr(find_bundle(name), "missing_requirement", None)
    fault: Fault | None = check() if check else None
    return fault


def bundle_options(name: str) -> Mapping[str, str]:
    """The keys of the recipe table `[bundle.NAME]` of an added kind, each with a description."""
    options: Mapping[str, str] = getattr(find_bundle(name), "OPTIONS", {})
    return options
