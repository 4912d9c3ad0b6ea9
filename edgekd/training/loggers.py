"""Records the history of a training run in a file and in the loggers that are installed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from edgekd.system.packages import need
from edgekd.system.store import Run
from edgekd.training.distributed import world
from edgekd.training.loop import format_record
from edgekd.training.options import EpochProgress, Record, no_epoch_progress

HISTORY = "history.jsonl"


def recorder(run: Run, stage: str, folder: Path) -> EpochProgress:
    """A callback that records each epoch in the run's progress, a JSON lines file and loggers.

    Only the first of several processes records. TensorBoard is used if it is installed, with its
    files in `folder`; MLflow if the environment variable MLFLOW_TRACKING_URI is set too.
    """
    if world()[0]:
        return no_epoch_progress
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
        known = client.get_experiment_by_name(project)
        experiment = known.experiment_id if known else client.create_experiment(project)
        name = f"{run.folder.name}/{stage}"
        started = client.create_run(experiment, run_name=name).info.run_id

        def to_mlflow(done: int, record: Record) -> None:
            for name, value in record.items():
                client.log_metric(started, name, value, step=done)

        writers.append(to_mlflow)

    def progress(done: int, total: int, record: Record) -> None:
        with (folder / HISTORY).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        for write in writers:
            write(done, record)
        run.progress(stage, format_record(record), done, total)

    return progress
