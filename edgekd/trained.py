"""Trained networks on disk: trained once, looked up after."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from edgekd.distributed import agreed, one_after_the_first, world
from edgekd.evaluate import by_slice, count_macs, outputs_of, score
from edgekd.fit import Record, ignore, told
from edgekd.need import need
from edgekd.network import Network
from edgekd.store import Run, write_text
from edgekd.work import Scored, Work

WEIGHTS = "weights.safetensors"
HISTORY = "history.jsonl"


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
    *,
    name: str = "",
    together: bool = False,
) -> Network:
    """`network` with the weights that `work_on` trains, or that an earlier run trained.

    Args:
        work_on: given a folder for its checkpoint, returns the trained network and its history.
        together: whether all processes train it; otherwise the first does, and the others wait.
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
        write_text(folder / HISTORY, "".join(json.dumps(row) + "\n" for row in records))
        for path in folder.glob("checkpoint*.pt"):
            path.unlink()

    if together and world()[1] > 1 and not agreed(run.has(stage, key)) and world()[0]:
        # The first process takes part below, where it writes what all have come to.
        work_on(run.place(stage, key, partial=True))
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


def recorder(run: Run, stage: str, folder: Path) -> Callable[[int, int, Record], None]:
    """Who is told of each epoch: the run, a line of JSON, and TensorBoard or MLflow where they are.

    Of several processes, the first alone tells. TensorBoard's files lie in `folder`. MLflow is told
    where the environment variable MLFLOW_TRACKING_URI says to which one.
    """
    if world()[0]:
        return ignore
    writers: list[Callable[[int, Record], None]] = []
    if find_spec("tensorboard"):
        from torch.utils.tensorboard import SummaryWriter

        board = SummaryWriter(str(folder / "tensorboard"))

        def to_board(done: int, record: Record) -> None:
            for name, value in record.items():
                board.add_scalar(f"{stage}/{name}", value, done)
            board.flush()

        writers.append(to_board)
    if find_spec("mlflow") and os.environ.get("MLFLOW_TRACKING_URI"):
        mlflow = need("mlflow", extra="logs")
        client = mlflow.MlflowClient()
        project = run.folder.parent.name
        found = client.get_experiment_by_name(project)
        experiment = found.experiment_id if found else client.create_experiment(project)
        name = f"{run.folder.name}/{stage}"
        started = client.create_run(experiment, run_name=name).info.run_id

        def to_mlflow(done: int, record: Record) -> None:
            for name, value in record.items():
                client.log_metric(started, name, value, step=done)

        writers.append(to_mlflow)

    def tell(done: int, total: int, record: Record) -> None:
        with (folder / HISTORY).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        for write in writers:
            write(done, record)
        run.tell(stage, told(record), done, total)

    return tell


def scored(network: Network, work: Work) -> Scored:
    """The figures of `network` on the work's data, by the recipe's metric."""
    output, name = network.signature.output_names[0], work.recipe.accept.metric
    test, metric = work.samples("test"), work.task.metrics[name]
    outputs, targets = outputs_of(network.module, test)[output], test.labels()
    return Scored(
        metric=metric(outputs, targets),
        validation_metric=score(
            network.module, output, work.samples("validation"), work.task, name
        ),
        slices=by_slice(metric, outputs, targets, work.slices),
        parameters=network.parameter_count,
        macs=count_macs(network),
    )
