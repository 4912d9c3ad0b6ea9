"""Trains a network once; later runs load its weights from the store."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from edgekd.network.network import Network
from edgekd.system.files import write_text
from edgekd.system.store import Run
from edgekd.training.distributed import agreed, one_after_the_first, world
from edgekd.training.loggers import HISTORY
from edgekd.training.options import Record

WEIGHTS = "weights.safetensors"


def trained_once(
    run: Run,
    stage: str,
    key: Any,
    network: Network,
    work_on: Callable[[Path], tuple[Network, list[Record]]],
    *,
    name: str = "",
    together: bool = False,
) -> Network:
    """`network` with the weights that `work_on` trains, or that an earlier run trained.

    Args:
        work_on: trains the network with its checkpoint in a folder; returns it and its history.
        together: whether all processes train it; otherwise the first does while the others wait.
    """
    from safetensors.torch import load_file, save_file

    def make(folder: Path) -> None:
        trained, records = work_on(folder)
        # Shared tensors are copied, since safetensors refuses aliases.
        state = {
            name: value.detach().clone(memory_format=torch.contiguous_format)
            for name, value in trained.module.state_dict().items()
        }
        save_file(state, folder / WEIGHTS)
        write_text(folder / HISTORY, "".join(json.dumps(row) + "\n" for row in records))
        for path in folder.glob("checkpoint*.pt"):
            path.unlink()

    shared, first = together and world()[1] > 1, not world()[0]
    # Under one lock from the decision to the result: were another run to store it in between, the
    # first process would take it, and the others would train without the first.
    with run.locked(stage, key) if shared and first else nullcontext():
        if shared and not agreed(first and run.has(stage, key)) and not first:
            # The first process takes part below, where it writes what all have come to.
            work_on(run.scratch(stage, key))
        spawned = together and run.spawn is not None and not run.has(stage, key)
        if spawned and run.spawn is not None:
            run.spawn()
            assert run.has(stage, key), "the processes trained something else"
        with one_after_the_first():
            made = run.make(stage, name, key, make)
    if spawned and run.reused:
        run.reused.pop()  # It was made now, though not by this process.
    module = copy.deepcopy(network.module)
    module.load_state_dict(load_file(made.folder / WEIGHTS))
    return network.with_module(module.eval(), trained_by=stage)
