"""One measurement at a time on a device, across processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgekd.devices.transport.lock import device_key, exclusive
from edgekd.errors import UnreachableError
from tests.support.project import assert_five_parts

HOLD = """
import sys
from edgekd.devices.transport.lock import exclusive
with exclusive(sys.argv[1], print):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def holder(url: str) -> subprocess.Popen[str]:
    """Another process that holds the device until it ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("end", ["closed", "killed"])
def test_a_device_is_waited_for_until_its_holder_ends(end: str) -> None:
    other = holder("ssh://pi@board:22")
    heard: list[str] = []

    def report(message: str) -> None:
        heard.append(message)
        if end == "killed":
            other.kill()
        else:
            assert other.stdin is not None
            other.stdin.close()

    with exclusive("ssh://root@Board:22", report):
        assert other.wait(timeout=30) is not None
    assert len(heard) == 1
    assert "another edgekd process is measuring" in heard[0]


def test_another_device_is_not_waited_for() -> None:
    other = holder("adb://one")
    heard: list[str] = []
    with exclusive("adb://two", heard.append), exclusive("local", heard.append):
        assert not heard
    other.kill()
    other.wait()


def test_a_device_that_stays_in_use_is_an_error() -> None:
    other = holder("local")
    with (
        pytest.raises(UnreachableError, match="is in use") as stop,
        exclusive("local", lambda _: None, wait_s=0.1),
    ):
        pass
    assert_five_parts(str(stop.value))
    other.kill()
    other.wait()


def test_urls_of_one_device_share_a_lock() -> None:
    assert device_key("local") == "local"
    assert device_key("ssh://pi@Pi5.local?python=/usr/bin/python3") == device_key("ssh://pi5.local")
    assert device_key("ssh://pi5:22") != device_key("ssh://pi5:2222")
    assert device_key("adb://A?python=python3") == device_key("adb://A")
    assert device_key("adb://A") != device_key("adb://a"), "serials have a case"
    assert "/" not in device_key("adb://../../x")
