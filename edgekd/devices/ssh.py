"""A board reached by the system's OpenSSH client: ssh://user@host[:port][?python=PATH].

The user's own configuration, agent, known hosts and jump hosts hold; host keys are never relaxed.
Files go as a tar stream, since boards with Dropbear often lack an sftp server.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import tarfile
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from edgekd.errors import ConversionError, Fault, UnreachableError
from edgekd.process import Completed, run_process

CONNECT_S = 10
HOST = re.compile(r"(?P<host>(?:\w[\w.-]*@)?\w[\w.-]*)(?::(?P<port>\d+))?")
FOLDER = re.compile(r"^/[A-Za-z0-9._/-]+$")


def run_agent(url: str, folder: Path, *, timeout_s: float) -> None:
    """Does the job in `folder`; see `Device`."""
    python = parse_qs(urlsplit(url).query).get("python", ["python3"])[0]
    place = _on(url, "mktemp -d /tmp/edgekd.XXXXXXXX", timeout_s=60).stdout.decode().strip()
    if not FOLDER.match(place):
        raise UnreachableError(_fault(url, f"mktemp answered {place!r}", "the path of a folder"))
    try:
        _on(url, f"tar -xf - -C {place}", stdin=_packed(folder), timeout_s=timeout_s)
        command = f"{shlex.quote(python)} {place}/agent.py {place}"
        done = _try(url, command, timeout_s=timeout_s)
        if done.code == 127:
            raise UnreachableError(_fault(url, done.last_lines, f"a program {python!r} there"))
        if done.code != 0:
            ended = f"past {timeout_s:.0f} s" if done.code is None else f"exit status {done.code}"
            raise ConversionError(
                Fault(
                    what="The agent did not finish on the device.",
                    at=url,
                    got=f"{ended}: {done.last_lines}",
                    expected="a report from the agent",
                    fix=f"run the artifact there by hand: ssh {_host(url)[-1]}",
                )
            )
        answer = _on(
            url, f"cd {place} && tar -cf - report.json $(ls | grep ^outputs-)", timeout_s=60
        )
        _unpack(answer.stdout, folder)
    finally:
        with contextlib.suppress(UnreachableError):  # What went wrong before is the news.
            _try(url, f"rm -rf {place}", timeout_s=60)


def _on(url: str, command: str, *, timeout_s: float, stdin: bytes | None = None) -> Completed:
    done = _try(url, command, timeout_s=timeout_s, stdin=stdin)
    if done.code != 0:
        ended = "no answer in time" if done.code is None else f"exit status {done.code}"
        raise UnreachableError(
            _fault(url, f"{ended}: {done.last_lines}", f"`{command}` to succeed")
        )
    return done


def _try(url: str, command: str, *, timeout_s: float, stdin: bytes | None = None) -> Completed:
    options = ["-oBatchMode=yes", f"-oConnectTimeout={CONNECT_S}"]
    try:
        done = run_process(
            ["ssh", *options, *_host(url), command], timeout_s=timeout_s, stdin=stdin
        )
    except FileNotFoundError as error:
        raise UnreachableError(_fault(url, "no ssh program", "the OpenSSH client")) from error
    if done.code == 255:  # ssh's own failure, as opposed to the command's
        raise UnreachableError(_fault(url, done.last_lines, "a connection without a password"))
    return done


def _host(url: str) -> list[str]:
    # Not `hostname`, which lowers the case of names that ~/.ssh/config may spell otherwise.
    match = HOST.fullmatch(_netloc(url))
    if match is None:
        raise UnreachableError(_fault(url, "no host", "ssh://user@host[:port]"))
    return [*(["-p", match["port"]] if match["port"] else []), "--", match["host"]]


def _netloc(url: str) -> str:
    return urlsplit(url).netloc


def _packed(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(folder, arcname=".")
    return buffer.getvalue()


def _unpack(data: bytes, folder: Path) -> None:
    """Takes the report and the outputs, and nothing else, whatever the device sends."""
    with tarfile.open(fileobj=io.BytesIO(data), mode="r") as archive:
        for member in archive:
            name = Path(member.name).name
            file = archive.extractfile(member) if member.isfile() else None
            if file and (name == "report.json" or re.fullmatch(r"outputs-[\w.-]+\.npz", name)):
                (folder / name).write_bytes(file.read())


def _fault(url: str, got: str, expected: str) -> Fault:
    return Fault(
        what=f"The device {url} cannot be reached.",
        at=url,
        got=got,
        expected=expected,
        fix=f"try it by hand: ssh -oBatchMode=yes {_netloc(url) or 'user@host'} python3 --version",
    )
