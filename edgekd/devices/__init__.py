"""Connections to devices, one file each, which carry the agent and its files."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol

from edgekd.devices import adb, emulated, imported, local, ssh
from edgekd.devices.transport.url import parse_options
from edgekd.errors import Fault, RecipeError, listed


class Device(Protocol):
    """A module that connects to devices of one URL scheme.

    It may also define

    - `OPTIONS`, a dict from each option of its URLs (`?name=value`) to a description; any other
      option is then refused before work begins;
    - `check_url(url)`, which raises a RecipeError if the URL cannot be used.
    """

    def run_agent(self, url: str, folder: Path, *, timeout_s: float) -> None:
        """Run the job in `folder` on the device.

        `folder` holds `job.json`, the files that it names, and `agent.py`. Afterwards it also
        holds `report.json` and the outputs.

        Raises:
            UnreachableError: the device cannot be reached, or has no Python.
            ConversionError: the agent ended without a report.
        """


DEVICES: dict[str, Device] = {
    "local": local,
    "ssh": ssh,
    "adb": adb,
    "emulated": emulated,
    "imported": imported,
}
"""The connections that come with edgekd, by URL scheme."""


def find_device(url: str) -> Device:
    """The module that connects to the device at `url`: "local", or a URL whose scheme names it.

    Raises:
        RecipeError: no module has that scheme, or the URL cannot be used.
    """
    scheme = url.partition("://")[0]
    entries = {entry.name: entry for entry in entry_points(group="edgekd.devices")}
    if scheme in DEVICES:
        device = DEVICES[scheme]
    elif scheme in entries:
        device = entries[scheme].load()
    else:
        raise RecipeError(_unknown_scheme(url, scheme, list(entries)))
    options = getattr(device, "OPTIONS", None)
    if options is not None:
        parse_options(url, options)
    check_url = getattr(device, "check_url", None)
    if check_url is not None:
        check_url(url)
    return device


def _unknown_scheme(url: str, scheme: str, added: list[str]) -> Fault:
    known = ["local", "ssh://user@host", "adb://SERIAL", "emulated://cortex-a76"]
    known += ["imported://FILE.json", *(f"{name}://..." for name in added)]
    return Fault(
        what=f"There is no device connection {scheme!r}.",
        at=f"device = {url!r}",
        got=repr(url),
        expected=listed(known),
        fix='use device = "local", or ssh://user@host',
    )
