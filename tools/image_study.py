"""What the image example's student owes to its teacher, over seeds, each arm tuned for itself.

    python tools/image_study.py [--seeds 6] [--json FILE] [--quick]

A seed draws which 100 images keep their label, the first weights and the order. Teacher and student
see these labels and no others; the validation labels only choose learning rates, with seeds that
are not reported. All arms take as many steps, with the same augmentation. Differences are paired.
Needs scikit-learn and SciPy.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from distillation_study import paired, progress

import edgekd
from edgekd.data import Data, Samples
from edgekd.network.network import Network, as_network
from edgekd.recipe.schema import Recipe
from edgekd.recipe.training import Loss
from edgekd.system.import_string import resolve
from edgekd.tasks import TASKS
from edgekd.tasks.evaluate import score
from edgekd.training.train import train

HERE = Path(__file__).parents[1] / "examples" / "image"
TASK = TASKS["classification"]
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
TUNING_SEEDS = (1000, 1001)
TEACHER = "the teacher"
ALONE = "labels alone"
ARMS: dict[str, bool] = {ALONE: False, "teacher, labelled images": False,
                         "teacher, all images": True, "its classes, all images": True}  # fmt: skip
"""Whether an arm sees the images without label."""


def losses(arm: str, recipe: Recipe) -> list[Loss]:
    assert recipe.distill is not None
    hard, soft = recipe.distill.losses
    if arm == ALONE:
        return [hard.model_copy(update={"weight": 1.0})]
    return [hard, Loss(method="pseudo_label", weight=0.9) if arm.startswith("its") else soft]


def made(name: str, weights_seed: int, **options: Any) -> Any:
    """What the example's callable `name` returns."""
    torch.manual_seed(weights_seed)
    return resolve(name, base=HERE, at="example")(**options)


Figures = dict[tuple[str, float], tuple[float, float]]
"""By arm and learning rate, the accuracy on the validation and on the test split."""


def outcomes(job: tuple[int, Sequence[tuple[str, float]]], quick: bool) -> Figures:
    """The figures of the arms and rates of a seed; its teacher, the first arm, is trained first."""
    seed, arms = job
    recipe = edgekd.load_recipe(HERE / "recipe.toml")
    assert recipe.distill is not None
    assert recipe.teacher is not None
    assert recipe.teacher.train is not None
    data: Data = made(recipe.data.load, 0, labelled=100, seed=seed)
    example, found = data.test[0][0][None], {}
    few = replace(data, validation=torch.utils.data.Subset(data.validation, range(8)))

    def stepping(training: Any, rate: float) -> Any:
        optimizer = training.optimizer.model_copy(update={"learning_rate": rate})
        short = {"epochs": 1} if quick else {}
        return training.model_copy(update={"optimizer": optimizer, **short})

    for arm, rate in arms:
        if arm == TEACHER:
            fresh = as_network(made(recipe.teacher.load, seed), example)
            names, training = fresh.signature.input_names, stepping(recipe.teacher.train, rate)
            splits = [Samples(split, names) for split in (few.train, few.validation)]
            more = {"metric": "accuracy", "seed": seed, "augment": data.augment}
            teacher, _ = train(fresh, TASK, *splits, training, **more)
            found[arm, rate] = judged(teacher, data)
            continue
        config = recipe.distill.model_copy(update={"losses": losses(arm, recipe)})
        seen = few if ARMS[arm] else replace(few, unlabeled=None)
        if not ARMS[arm]:  # 100 images: two steps an epoch, and as many steps in all.
            assert data.unlabeled is not None
            steps = (len(data.unlabeled) + 100) // config.batch_size
            config = config.model_copy(
                update={"epochs": config.epochs * steps // 2, "batch_size": 50}
            )
        student = as_network(made(recipe.student.load, seed), example)
        taught = edgekd.distill(teacher, student, seen, stepping(config, rate), seed=seed)
        found[arm, rate] = judged(taught, data)
    return found


def judged(network: Network, data: Data) -> tuple[float, float]:
    output, names = network.signature.output_names[0], network.signature.input_names
    parts = (Samples(data.validation, names), Samples(data.test, names))
    validation, test = (score(network.module, output, part, TASK, "accuracy") for part in parts)
    return validation, test


def study(seeds: int, quick: bool) -> dict[str, Any]:
    """The figures, as a document."""
    tuning, rates = (TUNING_SEEDS[:1], RATES[:2]) if quick else (TUNING_SEEDS, RATES)
    with ProcessPoolExecutor(2, get_context("spawn"), torch.set_num_threads, (1,)) as pool:

        def over(name: str, jobs: list[Any]) -> list[Figures]:
            found = pool.map(functools.partial(outcomes, quick=quick), jobs)
            return list(progress(name, found, len(jobs)))

        def best(arms: Sequence[str], tried: list[Figures]) -> list[tuple[str, float]]:
            def mean(arm: str, rate: float) -> float:
                return statistics.fmean(each[arm, rate][0] for each in tried)

            return [(arm, max(rates, key=lambda rate: (mean(arm, rate), -rate))) for arm in arms]

        tried = over("the teacher", [(s, [(TEACHER, rate) for rate in rates]) for s in tuning])
        chosen = best([TEACHER], tried)
        pairs = [(arm, rate) for arm in ARMS for rate in rates]
        chosen += best(list(ARMS), over("tuning", [(s, [*chosen, *pairs]) for s in tuning]))
        last = over("seeds", [(seed, chosen) for seed in range(seeds)])
    alone = [each[pair][1] for each in last for pair in chosen if pair[0] == ALONE]
    found = {}
    for arm, rate in chosen:
        test = [each[arm, rate][1] for each in last]
        found[arm] = {
            "rate": rate,
            "at_edge": rate in (rates[0], rates[-1]),
            "test": test,
            "mean": statistics.fmean(test),
            "sd": statistics.stdev(test),
            "against_alone": paired(test, alone),
        }
    return {"seeds": seeds, "quick": quick, "arms": found}


def table(found: dict[str, Any]) -> str:
    lines = [f"{'arm':26}{'rate':>6}  test accuracy    against labels alone [95 %]"]
    for arm, row in found["arms"].items():
        it, told = row["against_alone"], ""
        if arm != ALONE:
            told = f"{100 * it['mean']:+.1f} [{100 * it['low']:+.1f}, {100 * it['high']:+.1f}]"
            told += f", {it['won']} of {found['seeds']}"
        edge = "*" if row["at_edge"] else " "
        mean = f"{100 * row['mean']:.1f} ± {100 * row['sd']:.1f}"
        lines.append(f"{arm:26}{row['rate']:>6g}{edge} {mean:16} {told}".rstrip())
    return "\n".join([*lines, "* at the edge of the grid"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--quick", action="store_true", help="only shows that it runs: 2 seeds")
    parser.add_argument("--json", type=Path, metavar="FILE")
    words = parser.parse_args()
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
