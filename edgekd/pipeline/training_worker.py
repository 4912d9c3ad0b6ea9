"""One of the processes that teach a student together; `edgekd run` starts them, nobody else."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgekd.errors import EdgekdError
from edgekd.pipeline.launch import MARK, aside
from edgekd.pipeline.plan import check
from edgekd.pipeline.run import begin, fold
from edgekd.system.store import Run
from edgekd.training.distributed import join, leave, world


def main(job: dict[str, Any]) -> int:
    """Does the stages with training of a run that has begun elsewhere; the exit code."""
    try:
        plan = check(job["recipe"], job["settings"])
        join()
        run = aside(Path(job["store"]).parent.parent, plan.recipe)
        if world()[0] == 0:
            run = Run(Path(job["folder"]), Path(job["store"]), plan.recipe.seed, _tell, reused=[])
        fold(begin(plan, run), run, job["until"])
        leave()
    except EdgekdError as error:
        faults = [asdict(fault) for fault in error.faults]
        _write({"exit_code": error.exit_code, "faults": faults})
        return error.exit_code
    return 0


def _tell(stage: str, item: str, done: int = 0, total: int = 0) -> None:
    _write({"tell": [stage, item, done, total]})


def _write(word: dict[str, Any]) -> None:
    sys.stderr.write(f"{MARK}{json.dumps(word)}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    raise SystemExit(main(json.loads(sys.argv[1])))
