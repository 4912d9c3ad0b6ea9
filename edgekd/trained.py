"""Trained networks on disk: trained once, looked up after."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from edgekd.evaluate import count_macs, score
from edgekd.fit import Record
from edgekd.network import Network
from edgekd.store import Run, write_text
from edgekd.work import Scored, Work

WEIGHTS = "weights.safetensors"


def network_key(network: Network) -> dict[str, Any]:
    """What a network is, as part of the key of what is made from it."""
    return {
        "lineage": dict(network.lineage),
        "weights": network.weights_digest(),
        "signature": network.signature.to_json(),
        "torch": torch.__version__,
    }


def trained_once(
    run: Run,
    stage: str,
    key: Any,
    network: Network,
    work_on: Callable[[Path], tuple[Network, list[Record]]],
) -> Network:
    """`network` with the weights that `work_on` trains, or that an earlier run trained.

    Args:
        work_on: given a folder for its checkpoint, returns the trained network and its history.
    """
    from safetensors.torch import load_file, save_file

    def make(folder: Path) -> None:
        trained, records = work_on(folder)
        # Shared tensors are written once each: safetensors refuses aliases.
        state = {
            name: value.detach().clone(memory_format=torch.contiguous_format)
            for name, value in trained.module.state_dict().items()
        }
        save_file(state, folder / WEIGHTS)
        write_text(folder / "history.jsonl", "".join(json.dumps(row) + "\n" for row in records))
        for path in folder.glob("checkpoint*.pt"):
            path.unlink()

    made = run.make(stage, "", key, make)
    module = copy.deepcopy(network.module)
    module.load_state_dict(load_file(made.folder / WEIGHTS))
    return network.with_module(module.eval(), trained_by=stage)


def scored(network: Network, work: Work) -> Scored:
    """The figures of `network` on the work's data, by the recipe's metric."""
    output, metric = network.signature.output_names[0], work.recipe.accept.metric
    return Scored(
        metric=score(network.module, output, work.samples("test"), work.task, metric),
        validation_metric=score(
            network.module, output, work.samples("validation"), work.task, metric
        ),
        parameters=network.parameter_count,
        macs=count_macs(network),
    )
