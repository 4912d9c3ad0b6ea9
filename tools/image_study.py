"""What the teacher of the image example adds to its student, over seeds, with tuned learning rates.

    python tools/image_study.py [--seeds 6] [--json FILE] [--quick]

A seed draws which 100 images keep their label, the initial weights and the order. Teacher and
student train on these labels only. Learning rates are tuned on the validation labels, with seeds
that are not reported. All arms take the same number of steps, with the same augmentation.
Differences are paired by seed. Needs scikit-learn and SciPy.
"""

from __future__ import annotations

import argparse
import functools
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from _study import (
    EXAMPLES,
    at_edge,
    best_rate,
    difference_text,
    example,
    main,
    mean_and_sd,
    mean_text,
    paired,
    progress,
    study_parser,
    worker_pool,
)

import edgekd
from edgekd.data import Data, Samples
from edgekd.network.network import Network, as_network
from edgekd.recipe.schema import Recipe
from edgekd.recipe.training import Loss
from edgekd.tasks import TASKS
from edgekd.tasks.evaluate import score
from edgekd.training.train import train

TASK = TASKS["classification"]
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
TUNING_SEEDS = (1000, 1001)
TEACHER = "the teacher"
ALONE = "labels alone"
PSEUDO = "pseudo-labels, all images"
ARMS: dict[str, bool] = {
    ALONE: False,
    "teacher, labelled images": False,
    "teacher, all images": True,
    PSEUDO: True,
}
"""By arm, whether it trains on the unlabelled images."""

Figures = dict[tuple[str, float], tuple[float, float]]
"""By arm and learning rate, the accuracy on the validation and on the test split."""


def losses_of(arm: str, recipe: Recipe) -> list[Loss]:
    """The losses of an arm, taken from the recipe where it has them."""
    assert recipe.distill is not None
    hard, soft = recipe.distill.losses
    if arm == ALONE:
        return [hard.model_copy(update={"weight": 1.0})]
    return [hard, Loss(method="pseudo_label", weight=0.9) if arm == PSEUDO else soft]


def seeded_example(name: str, weights_seed: int, **options: Any) -> Any:
    """The result of the image example's callable `name` after seeding torch."""
    torch.manual_seed(weights_seed)
    return example("image", name, **options)


def outcomes(job: tuple[int, Sequence[tuple[str, float]]], quick: bool) -> Figures:
    """The figures of the arms and rates of one seed. The teacher is the first arm of them."""
    seed, arms = job
    recipe = edgekd.load_recipe(EXAMPLES / "image" / "recipe.toml")
    assert recipe.distill is not None
    assert recipe.teacher is not None
    assert recipe.teacher.train is not None
    data: Data = seeded_example(recipe.data.load, 0, labelled=100, seed=seed)
    inputs, figures = data.test[0][0][None], {}
    few = replace(data, validation=torch.utils.data.Subset(data.validation, range(8)))

    def with_rate(training: Any, rate: float) -> Any:
        optimizer = training.optimizer.model_copy(update={"learning_rate": rate})
        short = {"epochs": 1} if quick else {}
        return training.model_copy(update={"optimizer": optimizer, **short})

    for arm, rate in arms:
        if arm == TEACHER:
            network = as_network(seeded_example(recipe.teacher.load, seed), inputs)
            training = with_rate(recipe.teacher.train, rate)
            teacher, _ = train(network, few, training, task=TASK, metric="accuracy", seed=seed)
            figures[arm, rate] = accuracies(teacher, data)
            continue
        config = recipe.distill.model_copy(update={"losses": losses_of(arm, recipe)})
        visible = few if ARMS[arm] else replace(few, unlabeled=None)
        if not ARMS[arm]:  # 100 images are two steps an epoch; the total stays the same.
            assert data.unlabeled is not None
            steps = (len(data.unlabeled) + 100) // config.batch_size
            config = config.model_copy(
                update={"epochs": config.epochs * steps // 2, "batch_size": 50}
            )
        student = as_network(seeded_example(recipe.student.load, seed), inputs)
        trained = edgekd.distill(teacher, student, visible, with_rate(config, rate), seed=seed)
        figures[arm, rate] = accuracies(trained, data)
    return figures


def accuracies(network: Network, data: Data) -> tuple[float, float]:
    """The accuracy on the validation and on the test split."""
    output, names = network.signature.output_names[0], network.signature.input_names
    parts = (Samples(data.validation, names), Samples(data.test, names))
    validation, test = (score(network.module, output, part, TASK, "accuracy") for part in parts)
    return validation, test


def study(args: argparse.Namespace) -> dict[str, Any]:
    """The figures, as a document."""
    quick, seeds = args.quick, args.seeds
    tuning_seeds, rates = (TUNING_SEEDS[:1], RATES[:2]) if quick else (TUNING_SEEDS, RATES)
    with worker_pool() as pool:

        def run_jobs(name: str, jobs: list[Any]) -> list[Figures]:
            return progress(
                name, pool.map(functools.partial(outcomes, quick=quick), jobs), len(jobs)
            )

        def tuned(arms: Sequence[str], tries: list[Figures]) -> list[tuple[str, float]]:
            def mean(arm: str, rate: float) -> float:
                return statistics.fmean(figures[arm, rate][0] for figures in tries)

            return [(arm, best_rate({rate: mean(arm, rate) for rate in rates})) for arm in arms]

        pairs = [(TEACHER, rate) for rate in rates]
        best = tuned([TEACHER], run_jobs("the teacher", [(seed, pairs) for seed in tuning_seeds]))
        pairs = [*best, *((arm, rate) for arm in ARMS for rate in rates)]
        best += tuned(list(ARMS), run_jobs("tuning", [(seed, pairs) for seed in tuning_seeds]))
        reported = run_jobs("reporting", [(seed, best) for seed in range(seeds)])
    tests = {arm: [figures[arm, rate][1] for figures in reported] for arm, rate in best}
    arms = {
        arm: {
            "rate": rate,
            "at_edge": at_edge(rate, rates),
            "test": tests[arm],
            **mean_and_sd(tests[arm]),
            "against_alone": paired(tests[arm], tests[ALONE]),
        }
        for arm, rate in best
    }
    return {"seeds": seeds, "quick": quick, "arms": arms}


def table(document: dict[str, Any]) -> str:
    """The figures as text; accuracies and differences in percent."""
    lines = [
        f"{'arm':26}{'rate':>6}  test accuracy    difference to labels alone [95 %], seeds won"
    ]
    for arm, row in document["arms"].items():
        difference, text = row["against_alone"], ""
        if arm != ALONE:
            text = f"{difference_text(difference, 1)}, {difference['won']} of {document['seeds']}"
        edge = "*" if row["at_edge"] else " "
        lines.append(f"{arm:26}{row['rate']:>6g}{edge} {mean_text(row, 1):16} {text}".rstrip())
    return "\n".join([*lines, "* at the edge of the grid"])


if __name__ == "__main__":
    main(study_parser(__doc__, seeds=6), study, table)
