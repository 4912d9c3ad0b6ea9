"""How a training run reports its progress and where it keeps its state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import nn

Record = dict[str, float]
"""The figures of an epoch, by name."""


class EpochProgress(Protocol):
    """A callback that receives the figures of each finished epoch."""

    def __call__(self, done: int, total: int, record: Record) -> None:
        """Reports that `done` of `total` epochs are finished, and the figures of the last one."""


def no_epoch_progress(done: int, total: int, record: Record) -> None:
    """An `EpochProgress` that does nothing."""


def no_message(sentence: str) -> None:
    """A `log` that does nothing."""


@dataclass(frozen=True)
class TrainingOptions:
    """How a training run reports its progress and where it keeps its state.

    Attributes:
        progress: called after each epoch. If None, `edgekd.distill` draws a progress bar in a
            notebook; elsewhere nothing is drawn.
        log: called with a sentence about what is being done, or about what was asked for and is
            not available.
        checkpoint: the file that holds the state after each epoch; a training continues from it.
        cache: a folder for the teachers' outputs on this data; they are kept in memory if None.
        history: a list that the record of each epoch is appended to.
        after_step: called with the trained module after each optimizer step, for instance to keep
            pruned weights at zero.
        together: whether all processes of a launcher train one network.
    """

    progress: EpochProgress | None = None
    log: Callable[[str], None] = no_message
    checkpoint: Path | None = None
    cache: Path | None = None
    history: list[Record] | None = None
    after_step: Callable[[nn.Module], None] | None = None
    together: bool = False
