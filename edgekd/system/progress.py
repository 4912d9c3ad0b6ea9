"""How long-running functions report their progress."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """A callback that receives the progress of a function; the command line draws it."""

    def __call__(self, stage: str, item: str, done: int = 0, total: int = 0) -> None:
        """Reports that `item` of `stage` is at step `done` of `total`; `total` is 0 if unknown."""


def no_progress(stage: str, item: str, done: int = 0, total: int = 0) -> None:
    """A `Progress` that does nothing."""
