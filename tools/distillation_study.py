"""What a teacher is worth on two small problems, every arm tuned for itself, beside controls.

    python tools/distillation_study.py [--only a|b] [--seeds 8] [--json FILE] [--quick]

a   MNIST-1D: the sensor example's teacher, trained on 4,000 labels, loses three quarters of its
    channels; 400 labels mend it, with and without the teacher, with and without augmentation.
b   Handwritten digits: 50 labels and 1,297 samples without, for a student of 910 parameters.

All arms of a problem take the same number of steps. The learning rate of each is chosen from one
grid, on validation samples whose labels neither student nor teacher trains on, with seeds that are
not reported; then the last epoch's test accuracy is. A seed draws which samples keep their labels,
the order and, in b, the student's first weights. Differences are paired by seed.
Needs mnist1d, scikit-learn and torch-pruning.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from mnist1d.data import get_dataset_args, make_dataset
from scipy import stats
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import edgekd
from edgekd.data import Inputs, Samples
from edgekd.network.network import Network, as_network
from edgekd.recipe.training import Distill, Loss, Optimizer, Training
from edgekd.system.import_string import resolve
from edgekd.tasks import TASKS
from edgekd.tasks.evaluate import score
from edgekd.training.train import train

SENSOR = Path(__file__).parents[1] / "examples" / "sensor"
CLASSES = 10
TUNING_SEEDS = (1000, 1001, 1002)
PROCESSES = 2

LABELS = Loss(method="hard", weight=0.1)
CE = (Loss(method="hard"),)
SMOOTHED = (Loss.model_validate({"method": "hard", "label_smoothing": 0.1}),)
KD = (LABELS, Loss.model_validate({"method": "soft_target", "weight": 0.9, "temperature": 4.0}))
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
        splits: train, validation and test, each inputs and labels.
        student: of a seed and of the trained teacher.
        label_count: how many labels an arm has; the teacher has those of the whole train split.
        few: epochs and batch size on the samples with labels alone.
        many: the same where the samples without take part.
        rates: the grid of learning rates, ascending.
        scope: what the figures do not say.
    """

    title: str
    splits: Callable[[], list[tuple[Tensor, Tensor]]]
    teacher: Callable[[], nn.Module]
    student: Callable[[int, nn.Module], nn.Module]
    augment: Callable[[Inputs, Tensor], Inputs] | None
    training: Training
    label_count: int
    few: tuple[int, int]
    many: tuple[int, int]
    rates: tuple[float, ...]
    arms: dict[str, Arm]
    scope: str


def of_example(name: str, *arguments: Any, **options: Any) -> Any:
    """What the sensor example's callable `name` returns."""
    return resolve(name, base=SENSOR, at="examples")(*arguments, **options)


def signals() -> list[tuple[Tensor, Tensor]]:
    """The example's 4,000 and 1,000 signals; 1,000 to validate on are generated besides."""
    data = of_example("data.py:signals", validation_count=0)
    args = get_dataset_args()
    args.seed, args.num_samples = 43, 1250
    made = make_dataset(args)
    fresh = torch.tensor(made["x"], dtype=torch.float32)[:, None], torch.tensor(made["y"])
    return [data.train.tensors, fresh, data.test.tensors]


def digits() -> list[tuple[Tensor, Tensor]]:
    """1,347 images of 8 x 8 to learn from, 150 to validate on and 300 to test on."""
    found, counts = load_digits(), [1347, 150, 300]
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(found.images / 16, dtype=torch.float32)[order, None]
    labels = torch.tensor(found.target)[order]
    return list(zip(images.split(counts), labels.split(counts), strict=True))


def signal_student(seed: int, teacher: nn.Module) -> nn.Module:  # noqa: ARG001
    """The teacher with a quarter of its channels, those of the largest L2 norm; for every seed.

    Source: Fang et al. 2023, arXiv:2301.12900: channels that depend on each other go together.
    """
    import torch_pruning

    module, norm = copy.deepcopy(teacher), torch_pruning.importance.GroupMagnitudeImportance(p=2)
    head, example = [module.head], torch.zeros(1, 1, 40)
    torch_pruning.pruner.BasePruner(
        module, example, norm, pruning_ratio=0.75, ignored_layers=head, round_to=8
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
        title="MNIST-1D: a teacher without 75 % of its channels, mended with 400 labels",
        splits=signals,
        teacher=functools.partial(of_example, "models.py:teacher"),
        student=signal_student,
        augment=functools.partial(of_example, "data.py:shift"),
        training=Training(epochs=40, optimizer=Optimizer(learning_rate=1e-2)),
        label_count=400,
        few=(100, 100),
        many=(100, 100),
        rates=(1e-2, 3e-2, 1e-1, 3e-1),
        arms={
            f"{name}{views}": Arm(losses, tuple(f"{each}{views}" for each in against), False, aug)
            for views, aug in (("", False), (" +aug", True))
            for name, losses, against in (
                ("CE", CE, ()),
                ("CE, smoothed", SMOOTHED, ("CE",)),
                ("pseudo-labels", PSEUDO, ("CE",)),
                ("KD", KD, ("CE", "CE, smoothed", "pseudo-labels")),
            )
        },
        scope="one teacher, one pruned network; +aug: the augmentation the teacher was trained "
        "with, also at the 400 signals. The teacher saw 4,000 labels, the arms without it 400: "
        "part of what it brings is those labels",
    ),
    "b": Problem(
        title="digits: 50 labels and 1,297 samples without, a student of 910 parameters",
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
        scope="one teacher. It saw the labels of all 1,347 samples, the arms without it 50: what "
        "it brings is mostly those labels; pseudo-labels and KD use the samples without labels",
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


def accuracy(network: Network, split: Sequence[Tensor]) -> float:
    samples = Samples(TensorDataset(*split), network.signature.input_names)
    output = network.signature.output_names[0]
    return score(network.module, output, samples, TASKS["classification"], "accuracy")


def prepare(key: str, quick: bool, folder: Path) -> dict[str, float]:
    """Trains the teacher, keeps it and the data in `folder`, and says what they are."""
    chosen, task = problem(key, quick), TASKS["classification"]
    splits = chosen.splits()
    example = splits[0][0][:1]
    torch.manual_seed(0)
    fresh = as_network(chosen.teacher(), example)
    parts = [Samples(TensorDataset(*split), fresh.signature.input_names) for split in splits[:2]]
    how = {"metric": "accuracy", "seed": 0, "augment": chosen.augment}
    teacher, _ = train(fresh, task, *parts, chosen.training, **how)
    torch.save({"splits": splits, "teacher": teacher.module.state_dict()}, folder / f"{key}.pt")
    student = as_network(chosen.student(0, teacher.module), example)
    return {
        "teacher_accuracy": accuracy(teacher, splits[2]),
        "teacher_parameters": teacher.parameter_count,
        "teacher_labels": len(splits[0][1]),
        "student_parameters": student.parameter_count,
        "student_labels": chosen.label_count,
        "student_accuracy_before": accuracy(student, splits[2]),
        "validation_labels": len(splits[1][1]),
    }


@dataclass(frozen=True)
class Job:
    """One training of a student."""

    key: str
    arm: str
    rate: float
    seed: int


def outcome(job: Job, quick: bool, folder: Path) -> tuple[float, float]:
    """The accuracy of the job's student on the validation and on the test split."""
    chosen, have = problem(job.key, quick), torch.load(folder / f"{job.key}.pt", weights_only=True)
    arm = chosen.arms[job.arm]
    (inputs, labels), validation, test = have["splits"]
    teacher = as_network(chosen.teacher(), inputs[:1])
    teacher.module.load_state_dict(have["teacher"])
    own, others = dealt(labels, chosen.label_count, job.seed)
    data = edgekd.Data(
        train=TensorDataset(inputs[own], labels[own]),
        # Scored after each epoch, which nobody reads; the whole is, at the end.
        validation=TensorDataset(*(column[:8] for column in validation)),
        test=TensorDataset(*test),
        unlabeled=TensorDataset(inputs[others]) if arm.unlabelled else None,
        augment=chosen.augment if arm.augmented else None,
    )
    epochs, size = chosen.many if arm.unlabelled else chosen.few
    steps = Optimizer(learning_rate=job.rate)
    config = Distill(epochs=epochs, batch_size=size, losses=list(arm.losses), optimizer=steps)
    fresh = as_network(chosen.student(job.seed, teacher.module), inputs[:1])
    student = edgekd.distill(teacher, fresh, data, config, seed=job.seed)
    return accuracy(student, validation), accuracy(student, test)


def dealt(labels: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """The ids of `count` samples, as many of each class, and of all others."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    each = [order[labels[order] == label] for label in range(CLASSES)]
    own = torch.cat([ids[: count // CLASSES] for ids in each])
    return own, order[~torch.isin(order, own)]


def paired(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """What `ours` has over `theirs` seed by seed: the mean, its 95 % interval (low, high), the
    two-sided p of Student's paired t test, and how many seeds ours won."""
    differences = [one - other for one, other in zip(ours, theirs, strict=True)]
    count, mean = len(differences), statistics.fmean(differences)
    error = statistics.stdev(differences) / count**0.5
    half = float(stats.t.ppf(0.975, count - 1)) * error
    p = 2 * float(stats.t.sf(abs(mean) / error, count - 1)) if error else float(not mean)
    won = sum(each > 0 for each in differences)
    return {"mean": mean, "low": mean - half, "high": mean + half, "p": p, "won": won}


def progress(name: str, results: Iterable[Any], count: int) -> Iterable[Any]:
    """`results`, told on stderr as they come."""
    for done, result in enumerate(results, 1):
        if done % math.ceil(count / 10) == 0 or done == count:
            print(f"{name}: {done} of {count} students", file=sys.stderr, flush=True)
        yield result


def study(keys: Sequence[str], seeds: int, quick: bool) -> dict[str, Any]:
    """The figures of the problems `keys`, as a document."""
    tuning = TUNING_SEEDS[: 1 if quick else None]
    with (
        tempfile.TemporaryDirectory() as name,
        ProcessPoolExecutor(PROCESSES, get_context("spawn"), torch.set_num_threads, (1,)) as pool,
    ):
        here = {"quick": quick, "folder": Path(name)}
        print("training the teachers", file=sys.stderr, flush=True)
        facts = list(pool.map(functools.partial(prepare, **here), keys))

        def outcomes(name: str, jobs: list[Job]) -> dict[Job, tuple[float, float]]:
            found = pool.map(functools.partial(outcome, **here), jobs)
            return dict(zip(jobs, progress(name, found, len(jobs)), strict=True))

        arms = [(key, arm) for key in keys for arm in PROBLEMS[key].arms]
        rates = {key: problem(key, quick).rates for key in keys}
        tries = [(*arm, rate) for arm in arms for rate in rates[arm[0]]]
        tried = outcomes("tuning", [Job(*each, seed) for each in tries for seed in tuning])
        scores: dict[Any, dict[float, float]] = {arm: {} for arm in arms}
        for *arm, rate in tries:
            found = [tried[Job(*arm, rate, seed)][0] for seed in tuning]
            scores[tuple(arm)][rate] = statistics.fmean(found)
        best = {arm: max(scores[arm], key=lambda rate: (scores[arm][rate], -rate)) for arm in arms}
        jobs = [Job(*arm, best[arm], seed) for arm in arms for seed in range(seeds)]
        last = outcomes("reporting", jobs)
    tests = {arm: [last[Job(*arm, best[arm], seed)][1] for seed in range(seeds)] for arm in arms}
    result: dict[str, Any] = {
        key: {"title": PROBLEMS[key].title, **known, "arms": {}}
        for key, known in zip(keys, facts, strict=True)
    }
    for key, arm in arms:
        rate, figures = best[key, arm], tests[key, arm]
        result[key]["arms"][arm] = {
            "learning_rate": rate,
            "at_edge": rate in (rates[key][0], rates[key][-1]),
            "validation_accuracy": scores[key, arm],
            "test_accuracy": figures,
            "mean": statistics.fmean(figures),
            "sd": statistics.stdev(figures),
            "against": {
                other: paired(figures, tests[key, other])
                for other in PROBLEMS[key].arms[arm].against
            },
        }
    return {"quick": quick, "seeds": seeds, "tuning_seeds": len(tuning), "problems": result}


def table(key: str, found: dict[str, Any], seeds: int) -> str:
    """One problem's figures as text; accuracies and differences in percent."""
    lines = [
        f"{key}. {found['title']}",
        f"teacher: {found['teacher_parameters']:,} parameters, {found['teacher_labels']:,} labels, "
        f"test accuracy {100 * found['teacher_accuracy']:.2f}",
        f"student: {found['student_parameters']:,} parameters, {found['student_labels']:,} labels, "
        f"accuracy before training {100 * found['student_accuracy_before']:.2f}",
        f"{seeds} seeds; rates chosen by {found['validation_labels']:,} other labels",
        f"{'arm':20}{'rate':>6}  {'test accuracy':15}difference [95 % interval], p, seeds won",
    ]
    for name, row in found["arms"].items():
        mean = f"{100 * row['mean']:.2f} ± {100 * row['sd']:.2f}"
        start = f"{name:20}{row['learning_rate']:>6g}  {mean:15}"
        for other, it in row["against"].items():
            mean, low, high = (f"{100 * it[name]:+.2f}" for name in ("mean", "low", "high"))
            won = f"p {it['p']:.2g}, {it['won']} of {seeds}"
            lines.append(f"{start}{mean} [{low}, {high}], {won} against {other}")
            start = " " * len(start)
        if not row["against"]:
            lines.append(start.rstrip())
    edges = [name for name, row in found["arms"].items() if row["at_edge"]]
    lines.append(f"rate at the edge of the grid: {'; '.join(edges) or 'none'}")
    return "\n".join([*lines, f"scope: {PROBLEMS[key].scope}"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=PROBLEMS)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="only shows that it runs: 2 seeds")
    parser.add_argument("--json", type=Path, metavar="FILE")
    words = parser.parse_args()
    if words.seeds < 2:
        parser.error("--seeds: 2 or more, since differences are paired by seed")
    began = time.monotonic()
    keys, seeds = [words.only] if words.only else list(PROBLEMS), 2 if words.quick else words.seeds
    found = study(keys, seeds, words.quick)
    if words.json:
        words.json.write_text(json.dumps(found, indent=1) + "\n")
    if words.quick:
        print("quick: too short to mean anything")
    print("\n\n".join(table(key, found["problems"][key], seeds) for key in keys))
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
