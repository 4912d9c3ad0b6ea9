"""A connection to a board over the system's OpenSSH client.

The user's own configuration, agent, known hosts and jump hosts apply; host key checks are never
relaxed. Commands share one connection through a control socket. Where the client cannot share
(Windows, or a socket path that is too long), each command opens its own connection. Files travel as
tar streams, since boards with Dropbear often lack an sftp server, and their digests are compared.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shlex
import tarfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekd.devices.transport.reconnect import ConnectionLostError
from edgekd.devices.transport.url import split_url
from edgekd.errors import Fault, RecipeError, UnreachableError
from edgekd.system.excerpt import KEEP_BYTES
from edgekd.system.process import Completed, run_process, started
from edgekd.system.scratch import scratch_folder

CONNECT_S = 10
READY_S = 60
"""Time limit to connect, including the user's jump hosts."""
ANSWER_S = 60
HOST = re.compile(
    r"(?P<user>\w[\w.@-]*@)?(?:(?P<name>\w[\w.-]*)|\[(?P<ipv6>[0-9A-Fa-f:.]+(?:%[\w.-]+)?)\])"
    r"(?::(?P<port>[0-9]{1,5}))?"
)
"""An address that ssh cannot read as an option. The last @ separates a user of a domain from the
host, as in ssh itself."""
FOLDER = re.compile(r"/[A-Za-z0-9._/-]+")
SOCKET_BYTES = 80
"""Limit for a control socket's path: systems allow 104 to 108, and ssh appends a suffix."""
FULL = "No space left on device"
FETCHED_BYTES = 2**30
"""Half of the most that is fetched at once; a board that sends more sends no outputs."""


@dataclass(frozen=True)
class Connection:
    """A board that answered. `options` are passed to every call of ssh."""

    url: str
    options: tuple[str, ...]

    def run(
        self, command: str, *, timeout_s: float = ANSWER_S, stdin: bytes | None = None,
        hold_stdin: bool = False, keep_bytes: int = KEEP_BYTES,
    ) -> Completed:  # fmt: skip
        """The finished `command`, run in a POSIX shell on the board; see `run_process`.

        Raises:
            ConnectionLostError: the connection broke.
        """
        done = run_process(
            ["ssh", *self.options, *host_args(self.url), f"sh -c {shlex.quote(command)}"],
            timeout_s=timeout_s,
            stdin=stdin,
            hold_stdin=hold_stdin,
            keep_bytes=keep_bytes,
        )
        if done.code == 255:  # ssh's own failure, as opposed to the command's
            raise ConnectionLostError(fault(self.url, done.last_lines, "the connection to hold"))
        return done

    def must(
        self, command: str, *, timeout_s: float = ANSWER_S, stdin: bytes | None = None,
        keep_bytes: int = KEEP_BYTES,
    ) -> Completed:  # fmt: skip
        """The finished `command`, which succeeded on the board.

        Raises:
            UnreachableError: it failed.
            ConnectionLostError: the connection broke.
        """
        done = self.run(command, timeout_s=timeout_s, stdin=stdin, keep_bytes=keep_bytes)
        if done.code != 0:
            ended = "no answer in time" if done.code is None else f"exit status {done.code}"
            raise UnreachableError(
                fault(self.url, f"{ended}: {done.last_lines}", f"`{command}` to succeed")
            )
        return done

    @contextlib.contextmanager
    def folder(self, parent: str = "/tmp") -> Iterator[str]:
        """A new folder below `parent` on the board, removed on exit."""
        done = self.must(f"mktemp -d {shlex.quote(parent)}/edgekd.XXXXXXXX")
        folder = done.stdout.decode(errors="replace").strip().rpartition("\n")[2]
        if not FOLDER.fullmatch(folder):
            raise UnreachableError(
                fault(self.url, f"mktemp answered {folder!r}", "the path of a folder")
            )
        try:
            yield folder
        finally:
            # An earlier error is the one to report.
            with contextlib.suppress(UnreachableError, ConnectionLostError):
                self.run(f"rm -rf {folder}")

    def send(self, files: Mapping[str, bytes | Path], folder: str, *, timeout_s: float) -> None:
        """Copy `files`, by relative name, into `folder` on the board.

        `files.json` goes with them: the supervisor there compares its digests.
        """
        digests, buffer = {}, io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, content in files.items():
                data = content if isinstance(content, bytes) else content.read_bytes()
                digests[name] = hashlib.sha256(data).hexdigest()
                _add(archive, name, data)
            _add(archive, "files.json", json.dumps(digests).encode())
        self.must(f"tar -xf - -C {folder}", stdin=buffer.getvalue(), timeout_s=timeout_s)

    def fetch(self, names: str, folder: str, *, timeout_s: float) -> dict[str, bytes]:
        """The files in `folder` on the board whose names match the pattern `names`.

        Raises:
            UnreachableError: the digest of a file is not the one that the supervisor recorded.
        """
        listing = f"$(ls | grep -E {shlex.quote(f'^({names})$')})"
        answer = self.must(
            f"cd {folder} && tar -cf - made.json {listing}",
            timeout_s=timeout_s,
            keep_bytes=FETCHED_BYTES,
        )
        try:
            contents = _unpacked(answer.stdout, names)
            digests = json.loads(contents.pop("made.json", b"{}"))
            if not isinstance(digests, dict):
                raise ValueError("made.json is not an object")
        except (tarfile.TarError, EOFError, ValueError, RecursionError, OSError) as error:
            got = f"{type(error).__name__}: {error}"
            raise UnreachableError(fault(self.url, got, "a complete tar of the results")) from error
        for name, data in contents.items():
            if digests.get(name) != hashlib.sha256(data).hexdigest():
                raise UnreachableError(
                    fault(self.url, f"{name} differs here", "the file as it was on the device")
                )
        return contents


@contextlib.contextmanager
def connected(url: str) -> Iterator[Connection]:
    """A connection to the board at `url`, closed on exit.

    Raises:
        UnreachableError: the board does not answer, or its host key is not the known one.
    """
    host = host_args(url)
    # ssh notices a dead link after half a minute.
    alive = ("-oServerAliveInterval=10", "-oServerAliveCountMax=3")
    plain = ("-oBatchMode=yes", f"-oConnectTimeout={CONNECT_S}", *alive)
    with scratch_folder("ssh") as scratch:
        socket, log = scratch / "c", scratch / "log"
        shared = os.name == "posix" and len(os.fsencode(socket)) <= SOCKET_BYTES
        ours = (f"-oControlPath={socket}",) if shared else ("-oControlPath=none",)
        first = ["-oControlMaster=yes", f"-oControlPersist={READY_S}"] if shared else []
        try:
            with started(["ssh", *plain, *ours, *first, *host, "exit 0"], log) as process:
                deadline = time.monotonic() + READY_S
                while process.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.01)
                ended = process.poll()
        except FileNotFoundError as error:
            raise UnreachableError(fault(url, "no ssh program", "the OpenSSH client")) from error
        if ended != 0:
            got = "no answer in time" if ended is None else _last_lines(log)
            raise UnreachableError(fault(url, got, "a connection without a password"))
        try:
            yield Connection(url, (*plain, *ours, "-oControlMaster=no"))
        finally:
            if shared:
                run_process(["ssh", *ours, "-O", "exit", *host], timeout_s=ANSWER_S)


def _unpacked(data: bytes, names: str) -> dict[str, bytes]:
    """The files in a tar by name: made.json, and those whose names match the pattern `names`.

    Raises:
        ValueError: a file claims more bytes than arrived.
    """
    contents = {}
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        for member in archive:
            name = Path(member.name).name
            if not member.isfile() or not (name == "made.json" or re.fullmatch(names, name)):
                continue
            if member.size > len(data):  # A sparse file would be filled with zeros.
                raise ValueError(f"{name} claims {member.size} bytes of {len(data)}")
            file = archive.extractfile(member)
            contents[name] = file.read() if file else b""
    return contents


def host_args(url: str) -> list[str]:
    """The arguments of ssh that name the host of `url`, safe from being read as options.

    Raises:
        RecipeError: the URL names no host, or an invalid port.
    """
    # `hostname` would lower the case, and ~/.ssh/config distinguishes it.
    netloc = split_url(url).netloc
    match = HOST.fullmatch(netloc.replace("%25", "%"))  # A zone's separator is written as %25.
    port = match["port"] if match else None
    if match is None or not 0 < int(port or 22) < 65536:
        raise RecipeError(
            Fault(
                what="The device's URL has no host that ssh can connect to.",
                at=f"device = {url!r}",
                got=f"no host and port in {netloc!r}" if netloc else "no host",
                expected="ssh://user@host[:port], an IPv6 address in brackets",
                fix="correct it, for example ssh://pi@pi5.local or ssh://pi@[fe80::1]:22",
            )
        )
    host = f"{match['user'] or ''}{match['name'] or match['ipv6']}"
    return [*(["-p", port] if port else []), "--", host]


def fault(url: str, got: str, expected: str) -> Fault:
    """The fault of a device that cannot be used."""
    by_hand = url.partition("://")[2].partition("/")[0].partition("?")[0] or "user@host"
    full = FULL in got
    return Fault(
        what=f"No space left on the device {url}." if full
        else f"The device {url} cannot be reached.",
        at=url,
        got=got,
        expected="free space for the artifact and its outputs" if full else expected,
        fix="free some space, or name another folder there: ?folder=/path" if full
        else f"try it by hand: ssh -oBatchMode=yes {by_hand} python3 --version",
    )  # fmt: skip


def _last_lines(log: Path) -> str:
    return Completed(None, b"", log.read_text(errors="replace")).last_lines


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), 0o644
    archive.addfile(entry, io.BytesIO(data))
