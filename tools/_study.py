"""What the studies share: arguments, worker processes, tuned learning rates, paired differences.

A study compares arms, which are ways to train one network. The learning rate of each arm is tuned
on seeds that are not reported; the arms are then compared seed by seed.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from scipy import stats

from edgekd.system.import_string import resolve

EXAMPLES = Path(__file__).parents[1] / "examples"
PROCESSES = 2

Cell = tuple[Any, ...]
"""An arm and the setting in which it is trained, such as (0.5, 400, "pruned, KD")."""


@dataclass(frozen=True)
class Job:
    """One training: a cell, its learning rate and its seed."""

    cell: Cell
    rate: float
    seed: int


@dataclass(frozen=True)
class Tuned:
    """The result of a cell with its best learning rate.

    Attributes:
        at_edge: whether the rate is the smallest or largest of its grid.
        validation: by learning rate, the mean validation accuracy over the tuning seeds.
        test: by seed, the test accuracy with the best rate.
    """

    rate: float
    at_edge: bool
    validation: dict[float, float]
    test: list[float]

    @property
    def document(self) -> dict[str, Any]:
        """The figures that a study reports of each arm."""
        return {"learning_rate": self.rate, "at_edge": self.at_edge, "test_accuracy": self.test,
                **mean_and_sd(self.test)}  # fmt: skip


def example(folder: str, name: str, *args: Any, **options: Any) -> Any:
    """The result of the callable `name` ("models.py:teacher") of an example."""
    return resolve(name, base=EXAMPLES / folder, at="examples")(*args, **options)


def worker_pool() -> ProcessPoolExecutor:
    """Processes with one thread each."""
    return ProcessPoolExecutor(PROCESSES, get_context("spawn"), torch.set_num_threads, (1,))


def progress(name: str, results: Iterable[Any], count: int) -> list[Any]:
    """All `results`; reports on stderr how many of `count` there are."""
    collected = []
    for done, result in enumerate(results, 1):
        if done % math.ceil(count / 10) == 0 or done == count:
            print(f"{name}: {done} of {count}", file=sys.stderr, flush=True)
        collected.append(result)
    return collected


def best_rate(scores: Mapping[float, float]) -> float:
    """The learning rate with the highest score; the smallest of equal ones."""
    return max(scores, key=lambda rate: (scores[rate], -rate))


def at_edge(rate: float, rates: Sequence[float]) -> bool:
    """Whether `rate` is at an end of the ascending grid `rates`."""
    return rate in (rates[0], rates[-1])


def tune(
    run_jobs: Callable[[str, list[Job]], list[tuple[float, float]]],
    grids: Mapping[Cell, Sequence[float]],
    seeds: int,
    tuning_seeds: Sequence[int],
) -> dict[Cell, Tuned]:
    """Each cell trained with its best learning rate.

    Args:
        run_jobs: runs jobs under a name for the progress report, and returns the accuracy of each
            on the validation and on the test split.
        grids: by cell, the learning rates to try, ascending.
    """
    jobs = [
        Job(cell, rate, seed) for cell in grids for rate in grids[cell] for seed in tuning_seeds
    ]
    outcomes = dict(zip(jobs, run_jobs("tuning", jobs), strict=True))
    scores = {
        cell: {
            rate: statistics.fmean(outcomes[Job(cell, rate, seed)][0] for seed in tuning_seeds)
            for rate in rates
        }
        for cell, rates in grids.items()
    }
    best = {cell: best_rate(scores[cell]) for cell in grids}
    jobs = [Job(cell, best[cell], seed) for cell in grids for seed in range(seeds)]
    outcomes = dict(zip(jobs, run_jobs("reporting", jobs), strict=True))
    return {
        cell: Tuned(
            best[cell],
            at_edge(best[cell], rates),
            scores[cell],
            [outcomes[Job(cell, best[cell], seed)][1] for seed in range(seeds)],
        )
        for cell, rates in grids.items()
    }


def paired(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """The difference of `ours` from `theirs`, paired by seed.

    Returns: its mean, the 95 % interval of the mean (low, high), the two-sided p of Student's
        paired t test, and the number of seeds in which ours is greater (won).
    """
    differences = [one - other for one, other in zip(ours, theirs, strict=True)]
    count, mean = len(differences), statistics.fmean(differences)
    error = statistics.stdev(differences) / count**0.5
    half = float(stats.t.ppf(0.975, count - 1)) * error
    p = 2 * float(stats.t.sf(abs(mean) / error, count - 1)) if error else float(not mean)
    won = sum(difference > 0 for difference in differences)
    return {"mean": mean, "low": mean - half, "high": mean + half, "p": p, "won": won}


def mean_and_sd(figures: Sequence[float]) -> dict[str, float]:
    """The mean and the standard deviation over seeds, as parts of a document."""
    return {"mean": statistics.fmean(figures), "sd": statistics.stdev(figures)}


def mean_text(row: Mapping[str, Any], digits: int = 2) -> str:
    """The mean and the standard deviation of a row as text, in percent."""
    return f"{100 * row['mean']:.{digits}f} ± {100 * row['sd']:.{digits}f}"


def difference_text(difference: Mapping[str, float], digits: int = 2) -> str:
    """A paired difference and its interval as text, in percentage points."""
    mean, low, high = (f"{100 * difference[name]:+.{digits}f}" for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def arm_lines(start: str, against: Mapping[str, Mapping[str, float]], seeds: int) -> list[str]:
    """The lines of an arm in a table: `start`, then a line for each arm it is compared with."""
    lines = []
    for other, difference in against.items():
        won = f"p {difference['p']:.2g}, {difference['won']} of {seeds}"
        lines.append(f"{start}{difference_text(difference)}, {won} against {other}")
        start = " " * len(start)
    return lines or [start.rstrip()]


def study_parser(doc: str | None, seeds: int) -> argparse.ArgumentParser:
    """The arguments that every study has."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=seeds, help="seeds to report (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="only show that it runs, on 2 seeds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    return parser


def main(
    parser: argparse.ArgumentParser,
    study: Callable[[argparse.Namespace], dict[str, Any]],
    table: Callable[[dict[str, Any]], str],
) -> None:
    """Runs `study` with the arguments of the command line and prints its `table`."""
    args = parser.parse_args()
    if args.seeds < 2:
        parser.error("--seeds must be 2 or more, because differences are paired by seed")
    if args.quick:
        args.seeds = 2
    started = time.monotonic()
    document = study(args)
    if args.json:
        args.json.write_text(json.dumps(document, indent=1) + "\n")
    if args.quick:
        print("quick: the trainings are too short for the figures to mean anything")
    print(table(document))
    print(f"{time.monotonic() - started:.0f} s", file=sys.stderr)
