"""What distillation adds on two small problems, each arm with its own learning rate, with controls.

    python tools/distillation_study.py [--only a|b] [--seeds 8] [--json FILE] [--quick]

a   MNIST-1D: the teacher of the sensor example, trained on 4,000 labels, loses three quarters of
    its channels. 400 labels recover it, with and without teacher, with and without augmentation.
b   Handwritten digits: 50 labelled and 1,297 unlabelled samples, for a student of 910 parameters.

All arms of a problem take the same number of steps. The learning rate of each arm is tuned on one
grid, on validation samples whose labels neither student nor teacher trains on, with seeds that are
not reported. The test accuracy is that of the last epoch. A seed draws which samples keep their
labels, the order and, in b, the initial weights of the student. Differences are paired by seed.
Needs mnist1d, scikit-learn and torch-pruning.
"""

from __future__ import annotations

import argparse
import copy
import functools
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from _students import (
    CE,
    CLASSES,
    KD,
    LABELS,
    Augment,
    Split,
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
from sklearn.datasets import load_digits
from torch import nn

import edgekd
from edgekd.network.network import as_network
from edgekd.recipe.training import Distill, Loss, Optimizer, Training

TUNING_SEEDS = (1000, 1001, 1002)
SMOOTHED = (Loss.model_validate({"method": "hard", "label_smoothing": 0.1}),)
PSEUDO = (LABELS, Loss(method="pseudo_label", weight=0.9))


@dataclass(frozen=True)
class Arm:
    """One way to train the student; `against` names the arms it is compared with."""

    losses: tuple[Loss, ...]
    against: tuple[str, ...] = ()
    unlabelled: bool = False
    augmented: bool = False


@dataclass(frozen=True)
class Problem:
    """Data, a teacher, a student, and the arms that train it.

    Attributes:
        splits: train, validation and test.
        student: builds the student from a seed and the trained teacher.
        label_count: labels that an arm has; the teacher has those of the whole train split.
        few: epochs and batch size of arms that train on labelled samples only.
        many: the same of arms that also train on unlabelled samples.
        rates: the grid of learning rates, ascending.
        scope: what the figures do not show.
    """

    title: str
    splits: Callable[[], list[Split]]
    teacher: Callable[[], nn.Module]
    student: Callable[[int, nn.Module], nn.Module]
    augment: Augment | None
    training: Training
    label_count: int
    few: tuple[int, int]
    many: tuple[int, int]
    rates: tuple[float, ...]
    arms: dict[str, Arm]
    scope: str


def digits() -> list[Split]:
    """1,347 images of 8 x 8 to train on, 150 for validation and 300 to test."""
    data, counts = load_digits(), [1347, 150, 300]
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(data.images / 16, dtype=torch.float32)[order, None]
    labels = torch.tensor(data.target)[order]
    return list(zip(images.split(counts), labels.split(counts), strict=True))


def signal_student(seed: int, teacher: nn.Module) -> nn.Module:  # noqa: ARG001
    """The teacher with a quarter of its channels, those of the largest L2 norm; for every seed.

    Source: Fang et al. 2023, arXiv:2301.12900: dependent channels are removed together.
    """
    import torch_pruning

    module, norm = copy.deepcopy(teacher), torch_pruning.importance.GroupMagnitudeImportance(p=2)
    head, inputs = [module.head], torch.zeros(1, 1, 40)
    torch_pruning.pruner.BasePruner(
        module, inputs, norm, pruning_ratio=0.75, ignored_layers=head, round_to=8
    ).step()
    return module


def digit_teacher() -> nn.Module:
    parts: list[nn.Module] = []
    for ins, outs, stride in ((1, 16, 1), (16, 32, 2), (32, 32, 1)):
        parts += [nn.Conv2d(ins, outs, 3, stride=stride, padding=1, bias=False)]
        parts += [nn.BatchNorm2d(outs), nn.ReLU()]
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(32 * 16, CLASSES))


def digit_student(seed: int, teacher: nn.Module) -> nn.Module:  # noqa: ARG001
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, CLASSES))


PROBLEMS = {
    "a": Problem(
        title="MNIST-1D: a teacher without 75 % of its channels, recovered with 400 labels",
        splits=signals,
        teacher=signal_teacher,
        student=signal_student,
        augment=shift,
        training=Training(epochs=40, optimizer=Optimizer(learning_rate=1e-2)),
        label_count=400,
        few=(100, 100),
        many=(100, 100),
        rates=(1e-2, 3e-2, 1e-1, 3e-1),
        arms={
            f"{name}{suffix}": Arm(
                losses, tuple(f"{other}{suffix}" for other in against), augmented=augmented
            )
            for suffix, augmented in (("", False), (" +aug", True))
            for name, losses, against in (
                ("CE", CE, ()),
                ("CE, smoothed", SMOOTHED, ("CE",)),
                ("pseudo-labels", PSEUDO, ("CE",)),
                ("KD", KD, ("CE", "CE, smoothed", "pseudo-labels")),
            )
        },
        scope="one teacher, one pruned network. +aug uses the augmentation that the teacher was "
        "trained with, on the same 400 signals. The teacher saw 4,000 labels and the other arms "
        "400: part of its gain is those labels",
    ),
    "b": Problem(
        title="digits: 50 labelled and 1,297 unlabelled samples, a student of 910 parameters",
        splits=digits,
        teacher=digit_teacher,
        student=digit_student,
        augment=None,
        training=Training(epochs=40, optimizer=Optimizer(learning_rate=3e-3)),
        label_count=50,
        few=(330, 25),
        many=(60, 128),
        rates=(1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1),
        arms={
            "CE": Arm(CE),
            "CE, smoothed": Arm(SMOOTHED, ("CE",)),
            "KD, labelled only": Arm(KD, ("CE",)),
            "pseudo-labels": Arm(PSEUDO, ("CE",), unlabelled=True),
            "KD": Arm(KD, ("CE", "KD, labelled only", "pseudo-labels"), unlabelled=True),
        },
        scope="one teacher. It saw the labels of all 1,347 samples and the arms 50: most of "
        "its gain is those labels. pseudo-labels and KD use the unlabelled samples",
    ),
}


def problem(key: str, quick: bool) -> Problem:
    """The problem `key`; a quick one only shows that everything runs."""
    chosen = PROBLEMS[key]
    if not quick:
        return chosen
    training = chosen.training.model_copy(update={"epochs": 1})
    few, many = (1, chosen.few[1]), (1, chosen.many[1])
    return replace(chosen, training=training, few=few, many=many, rates=chosen.rates[1:3])


def prepare(key: str, quick: bool, folder: Path) -> dict[str, float]:
    """Trains the teacher, stores it and the data in `folder`, and describes them."""
    chosen = problem(key, quick)
    splits = chosen.splits()
    torch.manual_seed(0)
    teacher = train_teacher(chosen.teacher(), splits, chosen.training, chosen.augment)
    torch.save({"splits": splits, "teacher": teacher.module.state_dict()}, folder / f"{key}.pt")
    student = as_network(chosen.student(0, teacher.module), splits[0][0][:1])
    return {
        "teacher_accuracy": accuracy(teacher, splits[2]),
        "teacher_parameters": teacher.parameter_count,
        "teacher_labels": len(splits[0][1]),
        "student_parameters": student.parameter_count,
        "student_labels": chosen.label_count,
        "student_accuracy_before": accuracy(student, splits[2]),
        "validation_labels": len(splits[1][1]),
    }


def outcome(job: Job, quick: bool, folder: Path) -> tuple[float, float]:
    """The accuracy of the job's student on the validation and on the test split."""
    key, name = job.cell
    chosen, stored = problem(key, quick), torch.load(folder / f"{key}.pt", weights_only=True)
    arm, splits = chosen.arms[name], stored["splits"]
    (inputs, labels), validation, test = splits
    teacher = as_network(chosen.teacher(), inputs[:1])
    teacher.module.load_state_dict(stored["teacher"])
    labelled, others = draw_labelled(labels, chosen.label_count, job.seed)
    data = student_data(
        splits,
        labelled,
        others if arm.unlabelled else None,
        chosen.augment if arm.augmented else None,
    )
    epochs, size = chosen.many if arm.unlabelled else chosen.few
    optimizer = Optimizer(learning_rate=job.rate)
    config = Distill(epochs=epochs, batch_size=size, losses=list(arm.losses), optimizer=optimizer)
    student = as_network(chosen.student(job.seed, teacher.module), inputs[:1])
    trained = edgekd.distill(teacher, student, data, config, seed=job.seed)
    return accuracy(trained, validation), accuracy(trained, test)


def study(keys: Sequence[str], seeds: int, quick: bool) -> dict[str, Any]:
    """The figures of the problems `keys`, as a document."""
    tuning_seeds = TUNING_SEEDS[: 1 if quick else None]
    with tempfile.TemporaryDirectory() as name, worker_pool() as pool:
        options = {"quick": quick, "folder": Path(name)}
        print("training the teachers", file=sys.stderr, flush=True)
        facts = list(pool.map(functools.partial(prepare, **options), keys))

        def run_jobs(name: str, jobs: list[Job]) -> list[tuple[float, float]]:
            return progress(name, pool.map(functools.partial(outcome, **options), jobs), len(jobs))

        grids = {
            (key, arm): problem(key, quick).rates for key in keys for arm in PROBLEMS[key].arms
        }
        tuned = tune(run_jobs, grids, seeds, tuning_seeds)
    problems: dict[str, Any] = {
        key: {"title": PROBLEMS[key].title, **known, "arms": {}}
        for key, known in zip(keys, facts, strict=True)
    }
    for (key, arm), result in tuned.items():
        problems[key]["arms"][arm] = {
            **result.document,
            "validation_accuracy": result.validation,
            "against": {
                other: paired(result.test, tuned[key, other].test)
                for other in PROBLEMS[key].arms[arm].against
            },
        }
    return {"quick": quick, "seeds": seeds, "tuning_seeds": len(tuning_seeds), "problems": problems}


def table(document: dict[str, Any]) -> str:
    """The figures as text; accuracies and differences in percent."""
    return "\n\n".join(
        problem_table(key, result, document["seeds"])
        for key, result in document["problems"].items()
    )


def problem_table(key: str, result: dict[str, Any], seeds: int) -> str:
    """The figures of one problem as text."""
    lines = [
        f"{key}. {result['title']}",
        f"teacher: {result['teacher_parameters']:,} parameters, {result['teacher_labels']:,} labels"
        f", test accuracy {100 * result['teacher_accuracy']:.2f}",
        f"student: {result['student_parameters']:,} parameters, {result['student_labels']:,} labels"
        f", accuracy before training {100 * result['student_accuracy_before']:.2f}",
        f"{seeds} seeds; learning rates tuned on {result['validation_labels']:,} other samples",
        f"{'arm':20}{'rate':>6}  {'test accuracy':15}difference [95 % interval], p, seeds won",
    ]
    for name, row in result["arms"].items():
        start = f"{name:20}{row['learning_rate']:>6g}  {mean_text(row):15}"
        lines += arm_lines(start, row["against"], seeds)
    edges = [name for name, row in result["arms"].items() if row["at_edge"]]
    lines.append(f"learning rate at the edge of the grid: {'; '.join(edges) or 'no arm'}")
    return "\n".join([*lines, f"scope: {PROBLEMS[key].scope}"])


def run(args: argparse.Namespace) -> dict[str, Any]:
    return study([args.only] if args.only else list(PROBLEMS), args.seeds, args.quick)


if __name__ == "__main__":
    parser = study_parser(__doc__, seeds=8)
    parser.add_argument("--only", choices=PROBLEMS, help="one of the two problems")
    main(parser, run, table)
