"""The time that `edgekd --help` and `edgekd targets` take: the median of eleven processes each."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time


def main() -> None:
    for args in (["--help"], ["targets"]):
        times = []
        for _ in range(11):
            start = time.perf_counter()
            command = [sys.executable, "-m", "edgekd.cli", *args]
            subprocess.run(command, check=True, capture_output=True)
            times.append(time.perf_counter() - start)
        print(
            f"edgekd {args[0]:8} median {statistics.median(times):.3f} s "
            f"({min(times):.3f} to {max(times):.3f})"
        )


if __name__ == "__main__":
    main()
