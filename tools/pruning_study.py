"""What pruning is worth on MNIST-1D, beside the same small network trained from scratch.

    python tools/pruning_study.py [--seeds 8] [--json FILE] [--quick]

The sensor example's teacher, trained on 4,000 labels, keeps half or a quarter of its parameters and
recovers with 400 or 4,000 labels: by cross-entropy, or taught by the unpruned network. Controls are
channels chosen by chance, and the same shape from scratch with the same and with five times the
steps, also with the augmentation that the teacher was trained with.

The learning rate of each arm is chosen from one grid, on validation samples whose labels nobody
trains on, with seeds that are not reported; then the last epoch's test accuracy is. A seed draws
which samples keep their labels, the order, and the first weights of a network from scratch.
Differences are paired by seed. Needs mnist1d, scipy and torch-pruning.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from distillation_study import CE, KD, accuracy, dealt, of_example, paired, progress, signals
from torch import nn
from torch.utils.data import TensorDataset

import edgekd
from edgekd.data import Samples
from edgekd.network.network import Network, as_network
from edgekd.pruning.prune import prune
from edgekd.recipe.pruning import Prune
from edgekd.recipe.training import Distill, Loss, Optimizer, Training
from edgekd.tasks import TASKS
from edgekd.training.train import train

KEPT = (0.5, 0.25)
LABELS = (400, 4000)
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
TUNING_SEEDS = (1000, 1001)
STEPS = 400
"""Of an arm, each of 100 samples; those of five times the budget take 2,000."""
PROCESSES = 2


@dataclass(frozen=True)
class Arm:
    """One way to a small network; `against` names the arms it is compared with.

    Attributes:
        importance: by which channels of the teacher are chosen; None: from scratch.
        budget: multiples of `STEPS`.
    """

    losses: tuple[Loss, ...]
    importance: str | None = "l2"
    budget: int = 1
    augmented: bool = False
    against: tuple[str, ...] = ()


FROM_SCRATCH = {
    "scratch, CE": Arm(CE, None),
    "scratch, KD": Arm(KD, None),
    "scratch, CE, 5 x": Arm(CE, None, 5),
    "scratch, KD, 5 x": Arm(KD, None, 5),
}
ARMS = {
    "pruned, CE": Arm(CE, against=("scratch, CE",)),
    "pruned, KD": Arm(KD, against=("pruned, CE", "pruned by chance, KD", *FROM_SCRATCH)),
    "pruned by chance, KD": Arm(KD, "random"),
    **FROM_SCRATCH,
    "pruned, KD +aug": Arm(KD, augmented=True, against=("scratch, KD, 5 x +aug",)),
    "scratch, KD, 5 x +aug": Arm(KD, None, 5, augmented=True),
}


@dataclass(frozen=True)
class Job:
    """One training of a small network."""

    keep: float
    label_count: int
    arm: str
    rate: float
    seed: int


def small(teacher: Network, data: edgekd.Data, keep: float, arm: Arm, seed: int) -> Network:
    """The network of an arm before it is trained."""
    importance = arm.importance or "l2"
    config = Prune.model_validate(
        {"keep": keep, "measure": "parameters", "importance": importance, "round_to": 8}
    )
    torch.manual_seed(seed)
    network = prune(teacher, data, config, seed=seed).network
    if arm.importance is not None:
        return network
    module = copy.deepcopy(network.module)
    for layer in module.modules():
        if isinstance(layer, nn.Conv1d | nn.Linear | nn.BatchNorm1d):
            layer.reset_parameters()
    return network.with_module(module)


def prepare(folder: Path, quick: bool) -> dict[str, Any]:
    """Trains the teacher, keeps it and the data in `folder`, and says what they are."""
    splits = signals()
    torch.manual_seed(0)
    fresh = as_network(of_example("models.py:teacher"), splits[0][0][:1])
    parts = [Samples(TensorDataset(*split), fresh.signature.input_names) for split in splits[:2]]
    training = Training(epochs=1 if quick else 40, optimizer=Optimizer(learning_rate=1e-2))
    shift = of_example_shift()
    how = {"metric": "accuracy", "seed": 0, "augment": shift}
    teacher, _ = train(fresh, TASKS["classification"], *parts, training, **how)
    state = teacher.module.state_dict()
    torch.save({"splits": splits, "teacher": state}, folder / "a.pt")
    data = edgekd.Data(*(TensorDataset(*split) for split in splits))
    before = {}
    for keep in KEPT:
        network = small(teacher, data, keep, ARMS["pruned, KD"], 0)
        before[str(keep)] = {
            "parameters": network.parameter_count,
            "accuracy_before": accuracy(network, splits[2]),
        }
    return {
        "teacher_accuracy": accuracy(teacher, splits[2]),
        "teacher_parameters": teacher.parameter_count,
        "pruned": before,
    }


def of_example_shift() -> Any:
    """The example's augmentation."""
    return functools.partial(of_example, "data.py:shift")


def outcome(job: Job, folder: Path, quick: bool) -> tuple[float, float]:
    """The accuracy of the job's network on the validation and on the test split."""
    have, arm = torch.load(folder / "a.pt", weights_only=True), ARMS[job.arm]
    (inputs, labels), validation, test = have["splits"]
    teacher = as_network(of_example("models.py:teacher"), inputs[:1])
    teacher.module.load_state_dict(have["teacher"])
    own, _ = dealt(labels, job.label_count, job.seed)
    data = edgekd.Data(
        train=TensorDataset(inputs[own], labels[own]),
        # Scored after each epoch, which nobody reads; the whole is, at the end.
        validation=TensorDataset(*(column[:8] for column in validation)),
        test=TensorDataset(*test),
        augment=of_example_shift() if arm.augmented else None,
    )
    epochs = arm.budget * STEPS * 100 // len(own)
    config = Distill(
        epochs=1 if quick else epochs,
        batch_size=100,
        losses=list(arm.losses),
        optimizer=Optimizer(learning_rate=job.rate),
    )
    network = small(teacher, data, job.keep, arm, job.seed)
    trained = edgekd.distill(teacher, network, data, config, seed=job.seed)
    return accuracy(trained, validation), accuracy(trained, test)


def study(seeds: int, quick: bool) -> dict[str, Any]:
    """The figures of all arms, as a document."""
    tuning, rates = TUNING_SEEDS[: 1 if quick else None], RATES[1:3] if quick else RATES
    with (
        tempfile.TemporaryDirectory() as name,
        ProcessPoolExecutor(PROCESSES, get_context("spawn"), torch.set_num_threads, (1,)) as pool,
    ):
        here = {"folder": Path(name), "quick": quick}
        print("training the teacher", file=sys.stderr, flush=True)
        facts = prepare(**here)

        def outcomes(name: str, jobs: list[Job]) -> dict[Job, tuple[float, float]]:
            found = pool.map(functools.partial(outcome, **here), jobs)
            return dict(zip(jobs, progress(name, found, len(jobs)), strict=True))

        cells = [(keep, count, arm) for keep in KEPT for count in LABELS for arm in ARMS]
        tries = [(cell, rate) for cell in cells for rate in rates]
        tried = outcomes("tuning", [Job(*c, rate, seed) for c, rate in tries for seed in tuning])
        scores: dict[Any, dict[float, float]] = {cell: {} for cell in cells}
        for cell, rate in tries:
            found = [tried[Job(*cell, rate, seed)][0] for seed in tuning]
            scores[cell][rate] = statistics.fmean(found)
        best = {c: max(scores[c], key=lambda rate: (scores[c][rate], -rate)) for c in cells}
        last = outcomes("reporting", [Job(*c, best[c], s) for c in cells for s in range(seeds)])
    tests = {c: [last[Job(*c, best[c], seed)][1] for seed in range(seeds)] for c in cells}
    rows = []
    for keep, count, arm in cells:
        figures = tests[keep, count, arm]
        row = {
            "keep": keep,
            "labels": count,
            "arm": arm,
            "learning_rate": best[keep, count, arm],
            "at_edge": best[keep, count, arm] in (rates[0], rates[-1]),
            "test_accuracy": figures,
            "mean": statistics.fmean(figures),
            "sd": statistics.stdev(figures),
            "against": {
                other: paired(figures, tests[keep, count, other]) for other in ARMS[arm].against
            },
        }
        rows.append(row)
    return {"quick": quick, "seeds": seeds, "tuning_seeds": len(tuning), **facts, "rows": rows}


def table(found: dict[str, Any]) -> str:
    """The figures as text; accuracies and differences in percent."""
    seeds = found["seeds"]
    lines = [
        f"teacher: {found['teacher_parameters']:,} parameters, 4,000 labels, "
        f"test accuracy {100 * found['teacher_accuracy']:.2f}; {seeds} seeds"
    ]
    last = None
    for row in found["rows"]:
        cell = (row["keep"], row["labels"])
        if cell != last:
            known = found["pruned"][str(row["keep"])]
            lines += ["", f"{row['keep']:g} of the parameters ({known['parameters']:,}), "]
            lines[-1] += f"{row['labels']:,} labels; pruned, before training "
            lines[-1] += f"{100 * known['accuracy_before']:.2f}"
            lines += [f"{'arm':24}{'rate':>6}  {'test accuracy':15}difference [95 %], p, seeds won"]
            last = cell
        edge = "!" if row["at_edge"] else " "
        mean = f"{100 * row['mean']:.2f} ± {100 * row['sd']:.2f}"
        start = f"{row['arm']:24}{row['learning_rate']:>6g}{edge} {mean:15}"
        for other, it in row["against"].items():
            mean, low, high = (f"{100 * it[name]:+.2f}" for name in ("mean", "low", "high"))
            won = f"p {it['p']:.2g}, {it['won']} of {seeds}"
            lines.append(f"{start}{mean} [{low}, {high}], {won} against {other}")
            start = " " * len(start)
        if not row["against"]:
            lines.append(start.rstrip())
    lost = [
        f"{row['keep']:g}, {row['labels']:,} labels: {row['arm']} loses {-100 * it['mean']:.2f} "
        f"to {other} (p {it['p']:.2g})"
        for row in found["rows"]
        for other, it in row["against"].items()
        if it["mean"] < 0
    ]
    lines += ["", "where an arm loses:", *(f"  {each}" for each in lost or ["nowhere"])]
    lines += [
        "!: the rate is at the edge of the grid. scope: one teacher, one data set; the teacher saw "
        "4,000 labels, so pruned networks know more than the labels they recover with"
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="only shows that it runs: 2 seeds")
    parser.add_argument("--json", type=Path, metavar="FILE")
    words = parser.parse_args()
    if words.seeds < 2:
        parser.error("--seeds: 2 or more, since differences are paired by seed")
    began = time.monotonic()
    found = study(2 if words.quick else words.seeds, words.quick)
    if words.json:
        words.json.write_text(json.dumps(found, indent=1) + "\n")
    if words.quick:
        print("quick: too short to mean anything")
    print(table(found))
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
