"""A fake phone: the device side of adb's protocol over TCP, with a shell on this host.

Source: Android Open Source Project, packages/modules/adb: protocol.txt, SYNC.TXT, shell_protocol.h.
Debian's real adb connects to it. It implements CNXN, OPEN, OKAY, WRTE and CLSE, and the services
shell (v1 and v2) and sync (STAT, SEND, RECV). /data/local/tmp is a folder of the test.
"""

from __future__ import annotations

import os
import queue
import socket
import struct
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

VERSION, MAX_DATA = 0x01000001, 64 * 1024
PHONE_TEMPORARY = "/data/local/tmp"
STDOUT, STDERR, EXIT = 1, 2, 3


@dataclass
class Phone:
    """A phone that listens on `port` of loopback.

    Attributes:
        temporary: the folder that stands for /data/local/tmp.
        shell_v2: whether its shell reports exit codes and stderr separately; since Android 7.
        env: environment of its shell commands.
        spoil: changes the bytes of a pushed file, to test that damage is noticed.
        cut_after: the connection is cut after this many shell commands.
        cut_when: the connection is cut, once, during a command that contains this text; the command
            continues, as on a phone whose cable is pulled.
    """

    temporary: Path
    shell_v2: bool = True
    env: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    spoil: Callable[[str, bytes], bytes] = lambda _, data: data
    cut_after: int | None = None
    cut_when: str | None = None
    commands: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Switch the phone off."""
        self.listener.close()
        for connection in self.connections:
            connection.close()

    def local_path(self, path: str) -> Path:
        """The path on this host of a path on the phone."""
        return Path(path.replace(PHONE_TEMPORARY, str(self.temporary)))

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=Connection(self, connection).serve, daemon=True).start()


class Connection:
    """One host's connection and its streams."""

    def __init__(self, phone: Phone, wire: socket.socket) -> None:
        self.phone, self.wire = phone, wire
        self.lock = threading.Lock()
        self.streams: dict[int, Stream] = {}

    def send(self, command: bytes, first: int, second: int, data: bytes = b"") -> None:
        number = struct.unpack("<I", command)[0]
        head = struct.pack(
            "<6I", number, first, second, len(data), sum(data) & 0xFFFFFFFF, number ^ 0xFFFFFFFF
        )
        with self.lock:
            self.wire.sendall(head + data)

    def serve(self) -> None:
        try:
            while True:
                number, first, second, size, _, _ = struct.unpack("<6I", self._take(24))
                self._handle(struct.pack("<I", number), first, second, self._take(size))
        except OSError:
            for stream in self.streams.values():
                stream.inbox.put(None)

    def _take(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.wire.recv(size - len(data))
            if not more:
                raise ConnectionError
            data += more
        return data

    def _handle(self, command: bytes, first: int, second: int, data: bytes) -> None:
        if command == b"CNXN":
            features = "shell_v2,cmd" if self.phone.shell_v2 else "cmd"
            banner = f"device::ro.product.name=test;ro.product.model=Test;features={features}"
            self.send(b"CNXN", VERSION, MAX_DATA, banner.encode())
        elif command == b"OPEN":
            stream = Stream(self, len(self.streams) + 1, first)
            self.streams[stream.ours] = stream
            service = data.rstrip(b"\0").decode()
            threading.Thread(target=stream.serve, args=(service,), daemon=True).start()
        elif second in self.streams:
            stream = self.streams[second]
            if command == b"WRTE":
                stream.inbox.put(data)
                self.send(b"OKAY", stream.ours, stream.theirs)
            elif command == b"OKAY":
                stream.ready.release()
            elif command == b"CLSE":
                stream.inbox.put(None)
                stream.ready.release()


class Stream:
    """A service that the host opened."""

    def __init__(self, connection: Connection, ours: int, theirs: int) -> None:
        self.connection, self.ours, self.theirs = connection, ours, theirs
        self.inbox: queue.Queue[bytes | None] = queue.Queue()
        self.ready = threading.Semaphore(1)
        self.rest = b""

    def write(self, data: bytes) -> None:
        for start in range(0, len(data), MAX_DATA):
            self.ready.acquire()
            chunk = data[start : start + MAX_DATA]
            self.connection.send(b"WRTE", self.ours, self.theirs, chunk)

    def read(self, size: int) -> bytes:
        while len(self.rest) < size:
            more = self.inbox.get()
            if more is None:
                raise ConnectionError
            self.rest += more
        data, self.rest = self.rest[:size], self.rest[size:]
        return data

    def serve(self, service: str) -> None:
        try:
            self.connection.send(b"OKAY", self.ours, self.theirs)
            if service.startswith("shell"):
                options, _, command = service.partition(":")
                self._shell(command, v2=",v2" in options)
            elif service == "sync:":
                self._sync()
            self.ready.acquire()
            self.connection.send(b"CLSE", self.ours, self.theirs)
        except OSError:
            return

    def _shell(self, command: str, *, v2: bool) -> None:
        phone = self.connection.phone
        phone.commands.append(command)
        if phone.cut_after is not None and len(phone.commands) > phone.cut_after:
            self.connection.wire.shutdown(socket.SHUT_RDWR)
            return
        if phone.cut_when is not None and phone.cut_when in command:
            phone.cut_when = None
            threading.Timer(1.0, self.connection.wire.shutdown, [socket.SHUT_RDWR]).start()
        command = command.replace(PHONE_TEMPORARY, str(phone.temporary))
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if v2 else subprocess.STDOUT,
            env=phone.env,
        )
        if not v2:
            # Before Android 7, a pseudo-terminal ended every line with \\r\\n.
            self.write(done.stdout.replace(b"\n", b"\r\n"))
            return
        for number, data in ((STDOUT, done.stdout), (STDERR, done.stderr)):
            if data:
                self.write(struct.pack("<BI", number, len(data)) + data)
        self.write(struct.pack("<BIB", EXIT, 1, done.returncode & 0xFF))

    def _sync(self) -> None:
        while True:
            command, size = struct.unpack("<4sI", self.read(8))
            if command == b"QUIT":
                return
            path = self.read(size).decode()
            if command == b"STAT":
                self._stat(self.connection.phone.local_path(path))
            elif command == b"SEND":
                self._send(path.rpartition(",")[0])
            elif command == b"RECV":
                self._receive(self.connection.phone.local_path(path))
            else:
                self._fail(f"unknown command {command!r}")

    def _stat(self, path: Path) -> None:
        try:
            status = path.stat()
            self.write(struct.pack("<4s3I", b"STAT", status.st_mode, status.st_size, 0))
        except OSError:
            self.write(struct.pack("<4s3I", b"STAT", 0, 0, 0))

    def _send(self, path: str) -> None:
        data = b""
        while True:
            command, size = struct.unpack("<4sI", self.read(8))
            if command == b"DONE":
                break
            data += self.read(size)
        phone = self.connection.phone
        target = phone.local_path(path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(phone.spoil(path, data))
        except OSError as error:
            self._fail(f"couldn't create file: {error.strerror}")
        else:
            self.write(struct.pack("<4sI", b"OKAY", 0))

    def _receive(self, path: Path) -> None:
        try:
            data = path.read_bytes()
        except OSError as error:
            self._fail(f"open failed: {error.strerror}")
            return
        for start in range(0, len(data), MAX_DATA):
            chunk = data[start : start + MAX_DATA]
            self.write(struct.pack("<4sI", b"DATA", len(chunk)) + chunk)
        self.write(struct.pack("<4sI", b"DONE", 0))

    def _fail(self, reason: str) -> None:
        self.write(struct.pack("<4sI", b"FAIL", len(reason)) + reason.encode())
