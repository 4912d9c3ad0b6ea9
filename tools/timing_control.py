"""A control of the verdict "does not pay off": an artifact timed against a copy of itself.

A difference between the two is a false positive. Prints, for each artifact and round, the ratio of
the medians with its interval, and how many copies would have been called slower or faster.

    python tools/timing_control.py RUN/artifacts/TARGET/fp32 ... [--rounds 4]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from edgekd.artifacts.artifact import load_artifact
from edgekd.benchmarking.measure import MeasurementSettings, measure
from edgekd.evidence.measurement import LEAST_GAIN, Measurement
from edgekd.recipe.benchmark import THOROUGH


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("artifacts", nargs="+", type=Path, help="folders of artifacts")
    parser.add_argument("--rounds", type=int, default=4)
    args = parser.parse_args()
    claimed = compared = 0
    for path in args.artifacts:
        artifact = load_artifact(path)
        for seed in range(args.rounds):
            measurements = measure(
                {"original": artifact, "copy": artifact},
                MeasurementSettings(protocol=THOROUGH, seed=seed),
                parents={"copy": "original"},
            )
            copy = measurements["copy"]
            assert isinstance(copy, Measurement)
            assert copy.ratio is not None
            ratio = copy.ratio
            wrong = ratio.low > 1 + LEAST_GAIN or ratio.high < 1 - LEAST_GAIN
            claimed, compared = claimed + wrong, compared + 1
            print(
                f"{artifact.format:9} round {seed}: {ratio.value:.3f} "
                f"({ratio.low:.3f} to {ratio.high:.3f}){'  CLAIMED' if wrong else ''}",
                flush=True,
            )
    print(f"{claimed} of {compared} copies would have been called slower or faster")


if __name__ == "__main__":
    main()
