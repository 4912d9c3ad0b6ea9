"""The control of "does not pay": the same artifact timed against a copy of itself.

A difference claimed here is a false one. Prints, per runtime and round, the ratio of medians with
its interval, and how many of the copies would have been called slower or faster.

    python tools/timing_control.py RUN/artifacts/TARGET/fp32 ... [--rounds 4]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from edgekd.artifacts.artifact import load_artifact
from edgekd.benchmarking.measure import measure
from edgekd.evidence.measurement import LEAST_GAIN, Measurement
from edgekd.recipe.benchmark import THOROUGH


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("artifacts", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=4)
    words = parser.parse_args()
    claimed = rounds = 0
    for path in words.artifacts:
        artifact = load_artifact(path)
        for seed in range(words.rounds):
            found = measure(
                {"original": artifact, "copy": artifact},
                parents={"copy": "original"},
                device="local",
                threads=1,
                evidence="device",
                inputs=None,
                protocol=THOROUGH,
                seed=seed,
            )
            copy = found["copy"]
            assert isinstance(copy, Measurement)
            assert copy.ratio is not None
            ratio = copy.ratio
            wrong = ratio.low > 1 + LEAST_GAIN or ratio.high < 1 - LEAST_GAIN
            claimed, rounds = claimed + wrong, rounds + 1
            print(
                f"{artifact.format:9} round {seed}: {ratio.value:.3f} "
                f"({ratio.low:.3f} to {ratio.high:.3f}){'  CLAIMED' if wrong else ''}",
                flush=True,
            )
    print(f"{claimed} of {rounds} copies would have been called slower or faster")


if __name__ == "__main__":
    main()
