"""Read random foreign input with every reader and count what came of it.

The readers and the inputs are those of `tests/fuzz/`: files, texts and arguments that are nearly
valid. A reader returns a value or raises an error of five parts, in bounded time and memory;
anything else is a finding, printed with its traceback and the input that leads to it.

    .venv/bin/python tools/fuzz_inputs.py --examples 10000

`--examples` is the number of inputs over all readers. The exit code is 1 if there is a finding.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.fuzz.check import fuzz, peak_kib
from tests.fuzz.readers import READERS


def main() -> int:
    """Fuzz every reader and print one line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--only", choices=READERS, action="append")
    args = parser.parse_args()
    names = args.only or list(READERS)
    logging.disable(logging.CRITICAL)  # torch logs the damage of each archive.
    share = -(-args.examples // len(names))
    total: Counter[str] = Counter()
    findings = 0
    print(f"{'reader':28} {'inputs':>7} {'read':>7} {'errors':>7} {'seconds':>8}  finding")
    for name in names:
        outcomes: Counter[str] = Counter()
        began, finding = time.monotonic(), ""
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            try:
                fuzz(
                    READERS[name], Path(folder), share, derandomize=False,
                    note=lambda ended, outcomes=outcomes: outcomes.update([ended]),
                )  # fmt: skip
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                finding = type(error).__name__
                findings += 1
                traceback.print_exc()
        count, read = outcomes.total(), outcomes["read"]
        print(
            f"{name:28} {count:7} {read:7} {count - read:7} {time.monotonic() - began:8.1f}  "
            f"{finding or '-'}",
            flush=True,
        )
        total += outcomes
    print(f"{'all':28} {total.total():7} {total['read']:7} {total.total() - total['read']:7}")
    print(f"{findings} findings; the process took {peak_kib() / 1024:,.0f} MiB")
    return 1 if findings else 0


if __name__ == "__main__":
    raise SystemExit(main())
