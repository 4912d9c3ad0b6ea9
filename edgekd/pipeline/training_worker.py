"""One of the processes that train a student together; only `edgekd run` starts them."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgekd.errors import EdgekdError
from edgekd.pipeline.launch import MARK, helper_run
from edgekd.pipeline.plan import check
from edgekd.pipeline.run import initial_state, run_stages
from edgekd.system.disk_errors import disk_errors_explained
from edgekd.system.lifetime import end_with_parent
from edgekd.system.store import Run
from edgekd.training.distributed import join, leave, world


def main(job: dict[str, Any]) -> int:
    """Runs the training stages of a run that another process began; returns the exit code."""
    end_with_parent()
    try:
        plan = check(job["recipe"], job["settings"])
        join()
        run = helper_run(Path(job["store"]).parent.parent, plan.recipe)
        if world()[0] == 0:
            run = Run(
                Path(job["folder"]), Path(job["store"]), plan.recipe.seed, _progress, reused=[]
            )
        with disk_errors_explained():
            run_stages(initial_state(plan, run), run, job["until"])
        leave()
    except EdgekdError as error:
        faults = [asdict(fault) for fault in error.faults]
        _write({"exit_code": error.exit_code, "faults": faults})
        return error.exit_code
    return 0


def _progress(stage: str, item: str, done: int = 0, total: int = 0) -> None:
    _write({"progress": [stage, item, done, total]})


def _write(message: dict[str, Any]) -> None:
    sys.stderr.write(f"{MARK}{json.dumps(message)}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    raise SystemExit(main(json.loads(sys.argv[1])))
