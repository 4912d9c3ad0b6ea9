"""The ways to a device, one file each: how the agent and its files get there and back."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol

from edgekd.devices import adb, emulated, imported, local, ssh
from edgekd.devices.transport import adb_shell
from edgekd.devices.transport.url import options
from edgekd.errors import Fault, RecipeError, listed


class Device(Protocol):
    """A module of this room."""

    def run_agent(self, url: str, folder: Path, *, timeout_s: float) -> None:
        """Does the job in `folder` on the device: `job.json` and what it names are there, and
        `agent.py`; after it, `report.json` and the outputs are there too.

        Raises:
            UnreachableError: there is no way to the device, or no Python on it.
            ConversionError: the agent did not live to write its report.
        """


DEVICES: dict[str, Device] = {
    "local": local,
    "ssh": ssh,
    "adb": adb,
    "emulated": emulated,
    "imported": imported,
}


def find_device(url: str) -> Device:
    """The way to the device at `url`: "local", or a URL whose scheme names it.

    Raises:
        RecipeError: there is no such way, or what it says besides cannot be.
    """
    kind = url.partition("://")[0]
    if kind in DEVICES:
        known = {"ssh": ssh.OPTIONS, "adb": adb_shell.OPTIONS}.get(kind)
        if known is not None:
            options(url, known)
        if kind == "emulated":
            emulated.core_of(url)
        return DEVICES[kind]
    entries = {entry.name: entry for entry in entry_points(group="edgekd.devices")}
    if kind in entries:
        device: Device = entries[kind].load()
        return device
    raise RecipeError(
        Fault(
            what=f"There is no way to a device by {kind!r}.",
            at=f"device = {url!r}",
            got=repr(url),
            expected=listed(
                ["local", "ssh://user@host", "adb://SERIAL", "emulated://cortex-a76"]
                + ["imported://FILE.json"]
                + [f"{name}://..." for name in entries]
            ),
            fix='use device = "local", or ssh://user@host',
        )
    )
