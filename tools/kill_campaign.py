"""Kill runs at random moments of every stage, and check that the next run ends with equal results.

Each cycle starts `edgekd run` on a small recipe, kills it at a random moment of one stage, and runs
the recipe again. The second run must finish with the digests of an undisturbed run: weights, model
files and rows, without timings. Processes that still exist 5 s after the kill are left behind; so
is anything in the temporary folder after the second run that an undisturbed run does not leave.

    .venv/bin/python tools/kill_campaign.py --kills 200 --seed 0 --json kills.json

The stages take turns. A cycle starts with the stored results of the stages before the stage of the
kill, so that it takes seconds; `--from-empty` starts each cycle with an empty store. The exit code
is 1 if a cycle differs, leaves something behind, or does not finish.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import tomli_w

MARKER = "EDGEKD_CAMPAIGN"
"""The environment variable by which the processes of one run are found."""

GRACE_S = 5.0
LIMIT_S = 600.0

STAGES = {
    "load": (),
    "train": (),
    "distill": ("train",),
    "export": ("train", "teacher_outputs", "distill"),
    "verify": ("train", "teacher_outputs", "distill", "quantize", "export"),
    "benchmark": ("train", "teacher_outputs", "distill", "quantize", "export", "verify"),
    "bundle": ("train", "teacher_outputs", "distill", "quantize", "export", "verify", "benchmark"),
}
"""The stages as progress names them, each with the parts of the store that precede it."""

DATA = """
import torch
from torch.utils.data import TensorDataset
import edgekd


def blobs():
    generator = torch.Generator().manual_seed(7)
    centres = 2.0 * torch.randn(3, 8, generator=generator)

    def split(count):
        labels = torch.randint(0, 3, (count,), generator=generator)
        return TensorDataset(centres[labels] + torch.randn(count, 8, generator=generator), labels)

    return edgekd.Data(train=split(240), validation=split(60), test=split(120))
"""

MODELS = """
from torch import nn


def net(width):
    return nn.Sequential(nn.Linear(8, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 3))


def teacher():
    return net(32)


def student():
    return net(6)
"""


def recipe() -> dict[str, Any]:
    """A recipe whose run passes through every stage within seconds."""
    training = {"epochs": 3, "batch_size": 32, "optimizer": {"learning_rate": 1e-2}}
    return {
        "name": "campaign",
        "version": "1.0.0",
        "data": {"load": "data.py:blobs"},
        "teacher": {"load": "models.py:teacher", "train": training},
        "student": {"load": "models.py:student"},
        "distill": {**training, "losses": [{"method": "soft_target", "temperature": 4.0}]},
        "quantize": {"schemes": ["fp32", "int8"], "search": "first"},
        "benchmark": {"protocol": "quick"},
        "accept": {"max_drop": 0.9, "min_agreement": 0.5},
        "targets": [{"name": "x86-cpu-onnx"}],
        "bundle": {"kinds": ["folder"]},
    }


def write_project(folder: Path, document: dict[str, Any]) -> Path:
    """The recipe in `folder`, written with the files that it names."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data.py").write_text(DATA, encoding="utf-8")
    (folder / "models.py").write_text(MODELS, encoding="utf-8")
    path = folder / "recipe.toml"
    path.write_text(tomli_w.dumps(document), encoding="utf-8")
    return path


@dataclass
class Started:
    """A running `edgekd run`, the marker of its processes, and when each stage began."""

    process: subprocess.Popen[str]
    marker: str
    began: dict[str, float] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def read(self, stop_at: str | None = None) -> None:
        """Read progress until `stop_at` begins, or until the run ends."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            stage = line.split(":")[0].split(" ")[0]
            if stage in STAGES:
                self.began.setdefault(stage, time.monotonic())
                if stage == stop_at:
                    return


def start(path: Path, out: Path, temporary: Path) -> Started:
    """Start the recipe at `path`; its runs go to `out`, its temporary files to `temporary`."""
    marker = uuid.uuid4().hex
    environment = {**os.environ, MARKER: marker, "TMPDIR": str(temporary)}
    environment["XDG_CACHE_HOME"] = str(temporary.parent / "cache")
    environment.setdefault("OMP_NUM_THREADS", "1")
    process = subprocess.Popen(
        [sys.executable, "-m", "edgekd", "run", str(path), "--out", str(out)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    return Started(process, marker)


def alive(marker: str) -> list[str]:
    """The command lines of the processes whose environment has `marker`."""
    found = []
    needle = f"{MARKER}={marker}".encode()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            if needle not in (folder / "environ").read_bytes():
                continue
            if (folder / "stat").read_text().rpartition(")")[2].split()[0] == "Z":
                continue
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:  # It has ended, or belongs to somebody else.
            continue
        found.append(" ".join(word.decode(errors="replace") for word in words)[:200])
    return found


def left_after_grace(marker: str) -> list[str]:
    """The processes that still exist `GRACE_S` after the kill."""
    end = time.monotonic() + GRACE_S
    while time.monotonic() < end:
        if not alive(marker):
            return []
        time.sleep(0.2)
    return alive(marker)


def digests(home: Path) -> dict[str, str]:
    """The digests of the weights, model files and rows of the latest run in `home`."""
    run = (home / "campaign" / "latest").resolve()
    files = [
        *run.glob("train/**/*.safetensors"),
        *run.glob("distill/**/*.safetensors"),
        *run.glob("quantize/*.safetensors"),
        *(path for path in run.glob("artifacts/*/*/model.*") if path.is_file()),
    ]
    table = {
        path.relative_to(run).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(files)
    }
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    rows = [
        {
            **{key: row[key] for key in ("target", "format", "scheme", "outcome", "agreement")},
            "artifact": row["artifact"] and row["artifact"]["sha256"],
        }
        for row in result["rows"]
    ]
    networks = [
        {key: value for key, value in result[name].items() if key != "eager_ms"}
        for name in ("teacher", "student")
    ]
    stable = {"rows": rows, "networks": networks}
    text = json.dumps(stable, sort_keys=True)
    table["rows"] = hashlib.sha256(text.encode()).hexdigest()
    return table


@dataclass(frozen=True)
class Cycle:
    """What one kill and the run after it came to."""

    stage: str
    at_frac: float
    killed: bool
    exit_code: int
    differing: list[str]
    processes_left: list[str]
    files_left: list[str]
    seconds: float
    text: str = ""

    @property
    def passed(self) -> bool:
        """Whether the second run finished with the same results and nothing is left."""
        left = self.differing or self.processes_left or self.files_left
        return self.exit_code in (0, 9) and not left


@dataclass(frozen=True)
class Campaign:
    """The undisturbed run that every cycle is compared with."""

    folder: Path
    recipe: Path
    reference: dict[str, str]
    duration_s: dict[str, float]
    usual_files: frozenset[str]

    def prepare(self, out: Path, stage: str) -> None:
        """Copy the stored results of the stages before `stage` to `out`."""
        source, store = self.folder / "reference" / "campaign" / "store", out / "campaign" / "store"
        store.mkdir(parents=True)
        shutil.copyfile(source / "edgekd.json", store / "edgekd.json")
        for part in STAGES[stage]:
            if (source / part).exists():
                shutil.copytree(source / part, store / part)

    def cycle(
        self, number: int, stage: str, at_frac: float, sent: signal.Signals, *, empty: bool = False
    ) -> Cycle:
        """Kill one run during `stage`, after `at_frac` of its usual time, and run it again."""
        began = time.monotonic()
        out, temporary = self.folder / f"runs-{number}", self.folder / f"tmp-{number}"
        temporary.mkdir()
        if not empty:
            self.prepare(out, stage)
        started = start(self.recipe, out, temporary)
        if stage != "load":
            started.read(stop_at=stage)
        time.sleep(at_frac * self.duration_s[stage])
        killed = started.process.poll() is None
        started.process.send_signal(sent)
        left = left_after_grace(started.marker)
        started.process.stderr.close()  # type: ignore[union-attr]
        if left:
            end(started.marker)
        started.process.wait(LIMIT_S)
        again = start(self.recipe, out, temporary)
        again.read()
        code = again.process.wait(LIMIT_S)
        left += left_after_grace(again.marker)
        found = digests(out) if code in (0, 9) else {}
        differing = sorted(
            name
            for name in self.reference.keys() | found.keys()
            if found and found.get(name) != self.reference.get(name)
        )
        files = sorted({path.name for path in temporary.iterdir()} - self.usual_files)
        cycle = Cycle(
            stage, at_frac, killed, code, differing, left, files, time.monotonic() - began,
            "" if code in (0, 9) else "".join(again.lines[-12:]),
        )  # fmt: skip
        if cycle.passed:
            shutil.rmtree(out)
            shutil.rmtree(temporary)
        return cycle


def end(marker: str) -> None:
    """Kill the processes that have `marker`: only those that this tool started."""
    needle = f"{MARKER}={marker}".encode()
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and needle in (folder / "environ").read_bytes():
                os.kill(int(folder.name), signal.SIGKILL)
        except OSError:
            continue


def prepared(folder: Path) -> Campaign:
    """The campaign in `folder`, after its undisturbed run."""
    path = write_project(folder / "project", recipe())
    temporary = folder / "tmp"
    temporary.mkdir()
    began = time.monotonic()
    started = start(path, folder / "reference", temporary)
    started.read()
    code = started.process.wait(LIMIT_S)
    if code not in (0, 9):
        raise SystemExit(f"the undisturbed run ended with {code}:\n{''.join(started.lines[-20:])}")
    times = [*started.began.values(), time.monotonic()]
    lasted = dict(zip(started.began, (b - a for a, b in pairwise(times)), strict=True))
    lasted["load"] = times[1] - began  # A kill during the imports counts too.
    usual = frozenset(path.name for path in temporary.iterdir())
    return Campaign(folder, path, digests(folder / "reference"), lasted, usual)


def moments(kills: int, seed: int) -> Iterator[tuple[str, float]]:
    """The stage and the part of its time of each kill."""
    chance = random.Random(seed)
    names = list(STAGES)
    for number in range(kills):
        yield names[number % len(names)], chance.random()


def table(cycles: list[Cycle]) -> str:
    """One line per stage, and their sum."""
    lines = [
        f"{'stage':10} {'kills':>6} {'resumed':>8} {'differing':>10} {'left behind':>12} "
        f"{'temporary files':>16}"
    ]
    for stage in (*STAGES, "all"):
        chosen = [cycle for cycle in cycles if stage in ("all", cycle.stage) and cycle.killed]
        lines.append(
            f"{stage:10} {len(chosen):6} {sum(c.exit_code in (0, 9) for c in chosen):8} "
            f"{sum(bool(c.differing) for c in chosen):10} "
            f"{sum(bool(c.processes_left) for c in chosen):12} "
            f"{sum(bool(c.files_left) for c in chosen):16}"
        )
    return "\n".join(lines)


def main() -> int:
    """Run the campaign and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=21)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--signal", default="KILL", help="KILL, TERM or INT")
    parser.add_argument("--from-empty", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    sent = signal.Signals[f"SIG{args.signal.removeprefix('SIG')}"]
    cycles: list[Cycle] = []
    with tempfile.TemporaryDirectory(prefix="kill-campaign-") as name:
        campaign = prepared(Path(name))
        for number, (stage, at_frac) in enumerate(moments(args.kills, args.seed)):
            cycle = campaign.cycle(number, stage, at_frac, sent, empty=args.from_empty)
            cycles.append(cycle)
            if args.json is not None:
                document = {"signal": sent.name, "seed": args.seed}
                document["cycles"] = [{**vars(c), "passed": c.passed} for c in cycles]
                args.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
            if not cycle.passed:
                print(f"kill {number}: {cycle}", file=sys.stderr, flush=True)
    print(table(cycles))
    return 0 if all(cycle.passed for cycle in cycles) else 1


if __name__ == "__main__":
    raise SystemExit(main())
