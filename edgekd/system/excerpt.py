"""The beginning and the end of a stream of bytes, in bounded memory."""

from __future__ import annotations

import threading
from collections import deque
from typing import BinaryIO

KEEP_BYTES = 64 * 2**10
"""Kept of the beginning and of the end of what a child or a board writes."""


class Excerpt:
    """What was written to it: all of it up to twice `keep_bytes`, else its beginning and its end.

    A line between the two says how many bytes were left out. It may be read by another thread than
    the one that writes.
    """

    def __init__(self, keep_bytes: int = KEEP_BYTES) -> None:
        self.keep_bytes = keep_bytes
        self.first = bytearray()
        self.last: deque[bytes] = deque()
        self.last_bytes = 0
        self.left_out_bytes = 0
        self.lock = threading.Lock()

    def write(self, data: bytes) -> None:
        """Append `data`."""
        with self.lock:
            self._append(data)

    def _append(self, data: bytes) -> None:
        room = self.keep_bytes - len(self.first)
        if room > 0:
            self.first += data[:room]
            data = data[room:]
        if not data:
            return
        self.last.append(data)
        self.last_bytes += len(data)
        while self.last_bytes > self.keep_bytes:
            oldest = self.last.popleft()
            excess = self.last_bytes - self.keep_bytes
            if excess < len(oldest):
                self.last.appendleft(oldest[excess:])
            left_out = min(excess, len(oldest))
            self.last_bytes -= left_out
            self.left_out_bytes += left_out

    def read(self) -> bytes:
        """What is kept."""
        with self.lock:
            gap = gap_line(self.left_out_bytes) if self.left_out_bytes else b""
            return b"".join((bytes(self.first), gap, *self.last))


def gap_line(left_out_bytes: int) -> bytes:
    """The line in the place of what was left out."""
    return f"\n... {left_out_bytes} bytes left out ...\n".encode()


def excerpt_of(file: BinaryIO, keep_bytes: int = KEEP_BYTES) -> bytes:
    """The beginning and the end of `file`, as `Excerpt` keeps them, without reading the rest."""
    size = file.seek(0, 2)
    file.seek(0)
    if size <= 2 * keep_bytes:
        return file.read(2 * keep_bytes)
    first = file.read(keep_bytes)
    file.seek(size - keep_bytes)
    return first + gap_line(size - 2 * keep_bytes) + file.read(keep_bytes)
