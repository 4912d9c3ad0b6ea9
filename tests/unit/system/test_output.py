"""Loggers whose handlers libraries wrote, and logs without end."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgekd.system.excerpt import Excerpt, excerpt_of
from edgekd.system.output import last_lines, output_to


class Follows(logging.StreamHandler):  # type: ignore[type-arg]
    """As dill's handler: its stream is a property that looks up `sys.stderr`."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return sys.stderr


class Fixed(Follows):
    """A stream that cannot be set and is not looked up."""

    saved = sys.__stderr__

    @property
    def stream(self) -> Any:
        return self.saved


class Raises(Follows):
    """A handler that does not say where it writes."""

    @property
    def stream(self) -> Any:
        raise RuntimeError("not open")


class RefusesToFlush(logging.StreamHandler):  # type: ignore[type-arg]
    def flush(self) -> None:
        raise ValueError("closed")


@pytest.fixture
def attached() -> Iterator[list[logging.Handler]]:
    """Handlers that a test adds to the root logger."""
    handlers: list[logging.Handler] = []
    yield handlers
    for handler in handlers:
        logging.getLogger().removeHandler(handler)


@pytest.mark.parametrize("kind", [Follows, Fixed, Raises, RefusesToFlush])
def test_a_handler_whose_stream_cannot_be_set_is_left(
    kind: type[logging.Handler], attached: list[logging.Handler], tmp_path: Path
) -> None:
    attached.append(kind())
    logging.getLogger().addHandler(attached[0])
    with output_to(tmp_path / "log.txt"):
        if kind is Follows:
            logging.getLogger().warning("from a logger")
    if kind is Follows:
        assert "from a logger" in (tmp_path / "log.txt").read_text()


def test_the_last_resort_follows_the_redirection(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    handler = logging.StreamHandler(sys.stderr)
    monkeypatch.setattr(logging, "lastResort", handler)
    before = handler.stream
    with output_to(tmp_path / "log.txt"):
        handler.handle(logging.LogRecord("a", logging.ERROR, "", 0, "a warning", (), None))
    assert "a warning" in (tmp_path / "log.txt").read_text()
    assert handler.stream is before


def test_an_export_beside_datasets_and_dill_works(tmp_path: Path) -> None:
    pytest.importorskip("dill", reason="the package dill, which comes with datasets")
    code = (
        "import logging, sys, dill\n"
        "try: import datasets\n"
        "except ImportError: pass\n"
        "from pathlib import Path\n"
        "from edgekd.system.output import output_to\n"
        "with output_to(Path(sys.argv[1])): logging.getLogger('dill').warning('from dill')\n"
    )
    log = tmp_path / "log.txt"
    subprocess.run([sys.executable, "-c", code, str(log)], check=True)
    assert "from dill" in log.read_text()


@pytest.mark.parametrize("sizes", [[5], [10, 10], [7, 1, 12], [100], [3] * 40, [9, 11, 10, 1]])
def test_an_excerpt_keeps_the_beginning_and_the_end(sizes: list[int], tmp_path: Path) -> None:
    text = "".join(chr(97 + number % 26) for number in range(sum(sizes))).encode()
    excerpt, at = Excerpt(10), 0
    for size in sizes:
        excerpt.write(text[at : at + size])
        at += size
    expected = text
    if len(text) > 20:
        gap = f"\n... {len(text) - 20} bytes left out ...\n".encode()
        expected = text[:10] + gap + text[-10:]
    assert excerpt.read() == expected
    path = tmp_path / "log"
    path.write_bytes(text)
    with path.open("rb") as file:
        assert excerpt_of(file, 10) == expected


def test_the_last_lines_of_a_long_log_are_read_without_the_rest(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file:
        file.seek(2**33)  # A sparse file of 8 GiB.
        file.write(b"\nthe last line\n")
    assert last_lines(log).endswith("the last line")
