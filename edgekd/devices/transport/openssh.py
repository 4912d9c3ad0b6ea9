"""A connection to a board by the system's OpenSSH client.

The user's own configuration, agent, known hosts and jump hosts hold; host keys are never relaxed.
All commands of a connection share one, which ends with it; where the client cannot share (Windows,
a socket's path too long), each is a connection of its own. Files go as tar streams, since boards
with Dropbear often lack an sftp server, and their digests are compared.
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
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from edgekd.devices.transport.reconnect import Dropped
from edgekd.errors import Fault, UnreachableError
from edgekd.system.process import Completed, run_process, started

CONNECT_S = 10
READY_S = 60
"""Of a connection, the user's jump hosts included."""
ANSWER_S = 60
HOST = re.compile(r"(?P<host>(?:\w[\w.-]*@)?\w[\w.-]*)(?::(?P<port>\d+))?")
FOLDER = re.compile(r"/[A-Za-z0-9._/-]+")
SOCKET_BYTES = 80
"""Of a control socket's path: systems take 104 to 108, of which ssh uses some itself."""
FULL = "No space left on device"


@dataclass(frozen=True)
class Connection:
    """A board that answered. `options` are those of each call of ssh."""

    url: str
    options: tuple[str, ...]

    def run(
        self, command: str, *, timeout_s: float = ANSWER_S, stdin: bytes | None = None,
        hold_stdin: bool = False,
    ) -> Completed:  # fmt: skip
        """How `command`, of a POSIX shell, ended there.

        Raises:
            Dropped: the connection broke.
        """
        done = run_process(
            ["ssh", *self.options, *host_words(self.url), f"sh -c {shlex.quote(command)}"],
            timeout_s=timeout_s,
            stdin=stdin,
            hold_stdin=hold_stdin,
        )
        if done.code == 255:  # ssh's own failure, as opposed to the command's
            raise Dropped(fault(self.url, done.last_lines, "the connection to hold"))
        return done

    def must(
        self, command: str, *, timeout_s: float = ANSWER_S, stdin: bytes | None = None
    ) -> Completed:
        """How `command` ended well there.

        Raises:
            UnreachableError: it did not.
            Dropped: the connection broke.
        """
        done = self.run(command, timeout_s=timeout_s, stdin=stdin)
        if done.code != 0:
            ended = "no answer in time" if done.code is None else f"exit status {done.code}"
            raise UnreachableError(
                fault(self.url, f"{ended}: {done.last_lines}", f"`{command}` to succeed")
            )
        return done

    @contextlib.contextmanager
    def folder(self, where: str = "/tmp") -> Iterator[str]:
        """A new folder below `where` there, gone afterwards."""
        made = self.must(f"mktemp -d {shlex.quote(where)}/edgekd.XXXXXXXX")
        place = made.stdout.decode(errors="replace").strip().rpartition("\n")[2]
        if not FOLDER.fullmatch(place):
            raise UnreachableError(
                fault(self.url, f"mktemp answered {place!r}", "the path of a folder")
            )
        try:
            yield place
        finally:
            with contextlib.suppress(UnreachableError, Dropped):  # What went before is the news.
                self.run(f"rm -rf {place}")

    def send(self, files: Mapping[str, bytes | Path], place: str, *, timeout_s: float) -> None:
        """Puts `files`, by relative name, into the folder `place`, with files.json, by which the
        keeper there finds out whether they came whole."""
        digests, buffer = {}, io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, content in files.items():
                data = content if isinstance(content, bytes) else content.read_bytes()
                digests[name] = hashlib.sha256(data).hexdigest()
                _add(archive, name, data)
            _add(archive, "files.json", json.dumps(digests).encode())
        self.must(f"tar -xf - -C {place}", stdin=buffer.getvalue(), timeout_s=timeout_s)

    def fetch(self, names: str, place: str, *, timeout_s: float) -> dict[str, bytes]:
        """The files of `place` that the pattern `names` fits, whole, as the keeper made sure.

        Raises:
            UnreachableError: one is not as it was there.
        """
        listing = f"$(ls | grep -E {shlex.quote(f'^({names})$')})"
        answer = self.must(f"cd {place} && tar -cf - made.json {listing}", timeout_s=timeout_s)
        found = {}
        with tarfile.open(fileobj=io.BytesIO(answer.stdout), mode="r") as archive:
            for member in archive:
                name = Path(member.name).name
                file = archive.extractfile(member) if member.isfile() else None
                if file and (name == "made.json" or re.fullmatch(names, name)):
                    found[name] = file.read()
        made = json.loads(found.pop("made.json", b"{}"))
        for name, data in found.items():
            if made.get(name) != hashlib.sha256(data).hexdigest():
                raise UnreachableError(
                    fault(self.url, f"{name} differs here", "the file as it was on the device")
                )
        return found


@contextlib.contextmanager
def connected(url: str) -> Iterator[Connection]:
    """A connection to the board at `url`, ended afterwards.

    Raises:
        UnreachableError: there is no way to it, or its host key is not the known one.
    """
    host = host_words(url)
    # A link that is dead is noticed after half a minute.
    alive = ("-oServerAliveInterval=10", "-oServerAliveCountMax=3")
    plain = ("-oBatchMode=yes", f"-oConnectTimeout={CONNECT_S}", *alive)
    with tempfile.TemporaryDirectory(prefix="edgekd-ssh-") as scratch:
        socket, log = Path(scratch) / "c", Path(scratch) / "log"
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
            told = "no answer in time" if ended is None else _told(log)
            raise UnreachableError(fault(url, told, "a connection without a password"))
        try:
            yield Connection(url, (*plain, *ours, "-oControlMaster=no"))
        finally:
            if shared:
                run_process(["ssh", *ours, "-O", "exit", *host], timeout_s=ANSWER_S)


def host_words(url: str) -> list[str]:
    """What ssh is told of the host of `url`; never an option.

    Raises:
        UnreachableError: it names none.
    """
    # Not `hostname`, which lowers the case of names that ~/.ssh/config may spell otherwise.
    match = HOST.fullmatch(urlsplit(url).netloc)
    if match is None:
        raise UnreachableError(fault(url, "no host", "ssh://user@host[:port]"))
    return [*(["-p", match["port"]] if match["port"] else []), "--", match["host"]]


def fault(url: str, got: str, expected: str) -> Fault:
    """Why the device at `url` cannot be used."""
    by_hand = urlsplit(url).netloc or "user@host"
    full = FULL in got
    return Fault(
        what=f"The device {url} has no room left." if full
        else f"The device {url} cannot be reached.",
        at=url,
        got=got,
        expected="room for the artifact and its outputs" if full else expected,
        fix="make room, or take another folder there: ?folder=/path" if full
        else f"try it by hand: ssh -oBatchMode=yes {by_hand} python3 --version",
    )  # fmt: skip


def _told(log: Path) -> str:
    return Completed(None, b"", log.read_text(errors="replace")).last_lines


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), 0o644
    archive.addfile(entry, io.BytesIO(data))
