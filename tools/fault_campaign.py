"""Inject faults into devices, converters, the store, the disk and files; check what comes of each.

Each fault runs one `edgekd` command in a process of its own. It must end with its named exit code,
within its time limit, without a traceback, without control characters of a board in the output, and
without leaving a process. `tools/_faults.py` has the table.

    .venv/bin/python tools/fault_campaign.py
    .venv/bin/python tools/fault_campaign.py --only "device not-json"

A time limit holds on an idle machine; `--slow 3` multiplies it. The exit code is 1 if a fault ends
otherwise than the table says.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import kill_campaign
from _faults import FAULTS, Case, InjectedFault
from _faulty_package import install

CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f]|\x1b\[2J|\x1b\]")
PARTS = ("  at:       ", "  got:      ", "  expected: ", "  fix:      ")


@dataclass(frozen=True)
class Ended:
    """What came of a fault; `problems` is empty if it is what the table says."""

    name: str
    code: int
    seconds: float
    problems: list[str]
    text: str


def problems_of(
    fault: InjectedFault, code: int, text: str, seconds: float, slow: float
) -> list[str]:
    """What differs from the table's entry of `fault`."""
    found = []
    if code not in fault.codes:
        found.append(f"exit code {code}, not {' or '.join(map(str, fault.codes))}")
    if seconds > slow * fault.limit_s:
        found.append(f"{seconds:.0f} s, more than {slow * fault.limit_s:.0f}")
    if "Traceback (most recent call last)" in text:
        found.append("a traceback")
    if CONTROL.search(text):
        found.append("control characters in the output")
    if code not in (0, 9) and not all(part in text for part in PARTS):
        found.append("no message of five parts")
    if fault.contains and fault.contains not in text:
        found.append(f"no {fault.contains!r} in the output")
    if len(text) > 200_000:
        found.append(f"{len(text):,} characters of output")
    return found


def inject(name: str, base: Path, slow: float) -> Ended:
    """Run the command of the fault `name` in a copy of the project in `base`."""
    fault = FAULTS[name]
    folder = Path(tempfile.mkdtemp(prefix="case-", dir=base))
    case = Case(folder / "project", folder / "runs")
    shutil.copytree(base / "project", case.folder)
    shutil.copytree(base / "reference", case.out, symlinks=True)
    words = fault.set_up(case)
    argv = [sys.executable, "-m", "edgekd", *words]
    if words[0] == "ulimit":
        limited = 'ulimit "$1" "$2"; shift 2; exec "$@"'
        rest = [sys.executable, "-m", "edgekd", *words[2:]]
        argv = ["bash", "-c", limited, "bash", *words[1].split(), *rest]
    (folder / "tmp").mkdir()
    marker = uuid.uuid4().hex
    environment = {
        **os.environ, **case.environment, kill_campaign.MARKER: marker,
        "TMPDIR": str(folder / "tmp"), "XDG_CACHE_HOME": str(folder / "cache"),
        "PYTHONPATH": os.pathsep.join([str(base / "site"), os.environ.get("PYTHONPATH", "")]),
        "COLUMNS": "200",
    }  # fmt: skip
    environment.setdefault("OMP_NUM_THREADS", "1")
    began = time.monotonic()
    with (folder / "output").open("w+", encoding="utf-8", errors="replace") as output:
        process = subprocess.Popen(
            argv, cwd=case.folder, env=environment, stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            code = process.wait(slow * fault.limit_s + 60)
        except subprocess.TimeoutExpired:
            kill_campaign.end(marker)
            code = process.wait()
    seconds = time.monotonic() - began
    text = (folder / "output").read_text(encoding="utf-8", errors="replace")
    problems = problems_of(fault, code, text, seconds, slow)
    left = kill_campaign.left_after_grace(marker)
    if left:
        kill_campaign.end(marker)
        problems.append(f"{len(left)} processes left: {left[0]}")
    if fault.same and code in (0, 9):
        found = kill_campaign.digests(case.out)
        reference = kill_campaign.digests(base / "reference")
        problems += [f"{key} differs" for key in reference if reference[key] != found.get(key)]
    shutil.rmtree(folder, ignore_errors=True)
    return Ended(name, code, seconds, problems, text)


def prepare(base: Path) -> None:
    """Make an undisturbed run in `base`, and put its files beside the recipe."""
    install(base / "site")
    kill_campaign.prepared(base)
    run = (base / "reference" / "campaign" / "latest").resolve()
    project = base / "project"
    shutil.copyfile(run / "artifacts/x86-cpu-onnx/fp32/model.onnx", project / "model.onnx")
    shutil.copyfile(run / "distill/weights.safetensors", project / "weights.safetensors")
    shutil.copyfile(run / "quantize/calibration.safetensors", project / "samples.safetensors")


def main() -> int:
    """Inject the faults and print one line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", help="the name of a fault, or its beginning")
    parser.add_argument("--slow", type=float, default=1.0, help="multiplies every time limit")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    names = [n for n in FAULTS if not args.only or any(n.startswith(only) for only in args.only)]
    if not names:
        parser.error(f"no fault is named so; there are {', '.join(FAULTS)}")
    ended: list[Ended] = []
    with tempfile.TemporaryDirectory(prefix="fault-campaign-") as folder:
        prepare(Path(folder))
        print(f"{'fault':42} {'exit':>4} {'seconds':>8}  as the table says")
        for name in names:
            one = inject(name, Path(folder), args.slow)
            ended.append(one)
            verdict = "; ".join(one.problems) or "yes"
            print(f"{name:42} {one.code:4} {one.seconds:8.1f}  {verdict}", flush=True)
            if one.problems:
                print("".join(f"    {line}\n" for line in one.text.splitlines()[-8:]), flush=True)
            if args.json is not None:
                args.json.write_text(json.dumps([vars(e) for e in ended], indent=2) + "\n")
    wrong = sum(bool(one.problems) for one in ended)
    print(f"{len(ended)} faults, {len(ended) - wrong} as the table says, {wrong} otherwise")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
