"""What pruning adds on MNIST-1D, compared with training the same small network from scratch.

    python tools/pruning_study.py [--seeds 8] [--json FILE] [--quick]

The teacher of the sensor example, trained on 4,000 labels, keeps half or a quarter of its
parameters and recovers with 400 or 4,000 labels: by cross-entropy (CE), or by distillation from the
unpruned network (KD). The controls are channels chosen at random, and the same shape trained from
scratch for the same number of steps and for five times as many, also with the augmentation that the
teacher was trained with.

The learning rate of each arm is tuned on one grid, on validation samples whose labels no network
trains on, with seeds that are not reported. The test accuracy is that of the last epoch. A seed
draws which samples keep their labels, the order, and the initial weights of a network trained from
scratch. Differences are paired by seed. Needs mnist1d, scipy and torch-pruning.
"""

from __future__ import annotations

import argparse
import copy
import functools
import sys
import tempfile
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from _students import (
    CE,
    KD,
    accuracy,
    draw_labelled,
    shift,
    signal_teacher,
    signals,
    student_data,
    train_teacher,
)
from _study import (
    Job,
    arm_lines,
    main,
    mean_text,
    paired,
    progress,
    study_parser,
    tune,
    worker_pool,
)
from torch import nn
from torch.utils.data import TensorDataset

import edgekd
from edgekd.network.network import Network, as_network
from edgekd.pruning.prune import prune
from edgekd.recipe.pruning import Prune
from edgekd.recipe.training import Distill, Loss, Optimizer, Training

KEPT = (0.5, 0.25)
LABELS = (400, 4000)
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
TUNING_SEEDS = (1000, 1001)
STEPS = 400
"""Steps of an arm, of 100 samples each; an arm with five times the budget takes 2,000."""


@dataclass(frozen=True)
class Arm:
    """One way to a small network; `against` names the arms it is compared with.

    Attributes:
        importance: how channels of the teacher are chosen; None: train from scratch.
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
    "pruned, KD": Arm(KD, against=("pruned, CE", "pruned at random, KD", *FROM_SCRATCH)),
    "pruned at random, KD": Arm(KD, "random"),
    **FROM_SCRATCH,
    "pruned, KD +aug": Arm(KD, augmented=True, against=("scratch, KD, 5 x +aug",)),
    "scratch, KD, 5 x +aug": Arm(KD, None, 5, augmented=True),
}


def small_network(teacher: Network, data: edgekd.Data, keep: float, arm: Arm, seed: int) -> Network:
    """The network of an arm before training."""
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
    """Trains the teacher, stores it and the data in `folder`, and describes them."""
    splits = signals()
    torch.manual_seed(0)
    training = Training(epochs=1 if quick else 40, optimizer=Optimizer(learning_rate=1e-2))
    teacher = train_teacher(signal_teacher(), splits, training, shift)
    torch.save({"splits": splits, "teacher": teacher.module.state_dict()}, folder / "a.pt")
    data = edgekd.Data(*(TensorDataset(*split) for split in splits))
    pruned = {}
    for keep in KEPT:
        network = small_network(teacher, data, keep, ARMS["pruned, KD"], 0)
        pruned[str(keep)] = {
            "parameters": network.parameter_count,
            "accuracy_before": accuracy(network, splits[2]),
        }
    return {
        "teacher_accuracy": accuracy(teacher, splits[2]),
        "teacher_parameters": teacher.parameter_count,
        "pruned": pruned,
    }


def outcome(job: Job, folder: Path, quick: bool) -> tuple[float, float]:
    """The accuracy of the job's network on the validation and on the test split."""
    keep, label_count, name = job.cell
    stored, arm = torch.load(folder / "a.pt", weights_only=True), ARMS[name]
    (inputs, labels), validation, test = splits = stored["splits"]
    teacher = as_network(signal_teacher(), inputs[:1])
    teacher.module.load_state_dict(stored["teacher"])
    labelled, _ = draw_labelled(labels, label_count, job.seed)
    data = student_data(splits, labelled, augment=shift if arm.augmented else None)
    epochs = arm.budget * STEPS * 100 // len(labelled)
    config = Distill(
        epochs=1 if quick else epochs,
        batch_size=100,
        losses=list(arm.losses),
        optimizer=Optimizer(learning_rate=job.rate),
    )
    network = small_network(teacher, data, keep, arm, job.seed)
    trained = edgekd.distill(teacher, network, data, config, seed=job.seed)
    return accuracy(trained, validation), accuracy(trained, test)


def study(args: argparse.Namespace) -> dict[str, Any]:
    """The figures of all arms, as a document."""
    quick, seeds = args.quick, args.seeds
    tuning_seeds, rates = TUNING_SEEDS[: 1 if quick else None], RATES[1:3] if quick else RATES
    with tempfile.TemporaryDirectory() as name, worker_pool() as pool:
        options = {"folder": Path(name), "quick": quick}
        print("training the teacher", file=sys.stderr, flush=True)
        facts = prepare(**options)

        def run_jobs(name: str, jobs: list[Job]) -> list[tuple[float, float]]:
            return progress(name, pool.map(functools.partial(outcome, **options), jobs), len(jobs))

        grids = dict.fromkeys(product(KEPT, LABELS, ARMS), rates)
        tuned = tune(run_jobs, grids, seeds, tuning_seeds)
    rows = [
        {
            "keep": keep,
            "labels": count,
            "arm": arm,
            **result.document,
            "against": {
                other: paired(result.test, tuned[keep, count, other].test)
                for other in ARMS[arm].against
            },
        }
        for (keep, count, arm), result in tuned.items()
    ]
    return {
        "quick": quick,
        "seeds": seeds,
        "tuning_seeds": len(tuning_seeds),
        **facts,
        "rows": rows,
    }


def table(document: dict[str, Any]) -> str:
    """The figures as text; accuracies and differences in percent."""
    seeds = document["seeds"]
    lines = [
        f"teacher: {document['teacher_parameters']:,} parameters, 4,000 labels, "
        f"test accuracy {100 * document['teacher_accuracy']:.2f}; {seeds} seeds"
    ]
    last = None
    for row in document["rows"]:
        group = (row["keep"], row["labels"])
        if group != last:
            pruned = document["pruned"][str(row["keep"])]
            lines += [
                "",
                f"{row['keep']:g} of the parameters ({pruned['parameters']:,}), "
                f"{row['labels']:,} labels; accuracy after pruning, before training: "
                f"{100 * pruned['accuracy_before']:.2f}",
                f"{'arm':24}{'rate':>6}  {'test accuracy':15}difference [95 %], p, seeds won",
            ]
            last = group
        edge = "!" if row["at_edge"] else " "
        start = f"{row['arm']:24}{row['learning_rate']:>6g}{edge} {mean_text(row):15}"
        lines += arm_lines(start, row["against"], seeds)
    losses = [
        f"  {row['keep']:g}, {row['labels']:,} labels: {row['arm']} loses "
        f"{-100 * difference['mean']:.2f} to {other} (p {difference['p']:.2g})"
        for row in document["rows"]
        for other, difference in row["against"].items()
        if difference["mean"] < 0
    ]
    lines += ["", "where an arm loses:", *(losses or ["  nowhere"])]
    lines += [
        "!: the learning rate is at the edge of the grid. scope: one teacher, one data set. The "
        "teacher saw 4,000 labels, so pruned networks know more than the labels they recover with"
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main(study_parser(__doc__, seeds=8), study, table)
