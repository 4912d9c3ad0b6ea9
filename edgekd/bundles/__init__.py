"""Packages that an app build takes: one file per kind, all made of the folder.

The folder is the bundle itself: models, manifest, golden vectors, model card and checksums. Every
other kind is made of a folder, now or later, and adds nothing that is not in it.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol

from edgekd.bundles import android, archive, folder, linux, swift
from edgekd.bundles.manifest import Manifest
from edgekd.errors import Fault


class BundleKind(Protocol):
    """A module of this room.

    Attributes:
        FORMATS: what it takes; models of other formats stay out of it.
    """

    FORMATS: tuple[str, ...]

    def lacks(self) -> Fault | None:
        """What must be installed to make it and is not."""

    def pack(self, bundle: Path, manifest: Manifest, out: Path) -> None:
        """Writes the package of the folder `bundle` into `out`, which is empty."""


BUNDLES: dict[str, BundleKind] = {
    "folder": folder,
    "archive": archive,
    "android": android,
    "swift": swift,
    "linux": linux,
}
"""The kinds by name."""


def bundle_names() -> list[str]:
    """All kinds there are: of this table, or installed packages' entry points `edgekd.bundles`."""
    return [*BUNDLES, *(entry.name for entry in entry_points(group="edgekd.bundles"))]


def find_bundle(name: str) -> BundleKind:
    """The kind `name`.

    Raises:
        KeyError: there is none.
    """
    if name in BUNDLES:
        return BUNDLES[name]
    entries = {entry.name: entry for entry in entry_points(group="edgekd.bundles")}
    found: BundleKind = entries[name].load()
    return found
