"""An installed package whose device and format fail in the way that they are asked to."""

from __future__ import annotations

from pathlib import Path

DEVICE = '''
"""faulty://MODE: this machine, whose reply is spoiled as MODE says."""

import json
import subprocess
import sys
from urllib.parse import urlsplit

import numpy


def run_agent(url, folder, *, timeout_s):
    mode = urlsplit(url).netloc
    if mode.startswith("raises-"):
        raise RAISES[mode]
    if mode in FILES:
        FILES[mode](folder / "report.json")
        return
    subprocess.run([sys.executable, "agent.py", "."], cwd=folder, timeout=timeout_s, check=True)
    path = folder / "report.json"
    if mode in TEXTS:
        path.write_bytes(TEXTS[mode](path.read_bytes()))
        return
    outputs = list(folder.glob("outputs-*.npz"))
    if mode in OUTPUTS:
        for file in outputs:
            OUTPUTS[mode](file)
        return
    report = json.loads(path.read_text())
    REPORTS[mode](report)
    path.write_text(json.dumps(report))


def each(change):
    def spoil(report):
        for name in report["results"]:
            report["results"][name] = change(report["results"][name])

    return spoil


def without(key):
    return lambda report: report.pop(key)


def put(key, value):
    return lambda report: report.update({key: value})


RAISES = {
    "raises-os-error": OSError("the cable is loose"),
    "raises-connection-reset": ConnectionResetError("connection reset by peer"),
    "raises-value-error": ValueError("no such bus"),
    "raises-timeout": subprocess.TimeoutExpired(["agent.py"], 5),
    "raises-called-process": subprocess.CalledProcessError(139, ["agent.py"]),
}
FILES = {
    "no-report": lambda path: None,
    "report-is-a-folder": lambda path: path.mkdir(),
    "report-is-a-device": lambda path: path.symlink_to("/dev/zero"),
    "report-is-a-pipe": lambda path: __import__("os").mkfifo(path),
    "huge-report": lambda path: path.write_bytes(b"[" + b"1," * 60_000_000 + b"1]"),
}
TEXTS = {
    "empty": lambda data: b"",
    "not-json": lambda data: b"Segmentation fault",
    "truncated": lambda data: data[: len(data) // 2],
    "latin-1": lambda data: "caf\\u00e9".encode("latin-1") + data,
    "deep": lambda data: b"[" * 100_000,
    "digits": lambda data: b'{"version": ' + b"9" * 10_000 + b"}",
    "null": lambda data: b"null",
    "list": lambda data: b"[]",
    "text": lambda data: b'"done"',
}
REPORTS = {
    "another-version": put("version", 1),
    "version-text": put("version", "x"),
    "no-version": without("version"),
    "no-results": without("results"),
    "no-device": without("device"),
    "no-peak-memory": without("peak_memory_bytes"),
    "results-list": put("results", []),
    "results-empty": put("results", {}),
    "result-null": each(lambda result: None),
    "result-text": each(lambda result: "done"),
    "no-blocks": each(lambda result: {k: v for k, v in result.items() if k != "blocks_ns"}),
    "blocks-text": each(lambda result: {**result, "blocks_ns": "fast"}),
    "blocks-empty": each(lambda result: {**result, "blocks_ns": []}),
    "blocks-negative": each(lambda result: {**result, "blocks_ns": [[-5] * 50]}),
    "blocks-nan": each(lambda result: {**result, "blocks_ns": [[float("nan")] * 50]}),
    "unknown-outcome": each(lambda r: {"failure": {"outcome": "exploded", "detail": "x"}}),
    "failure-without-detail": each(lambda result: {"failure": {"outcome": "run-failed"}}),
    "failure-passed": each(lambda r: {"failure": {"outcome": "passed", "detail": "x"}}),
    "failure-escapes": each(
        lambda r: {"failure": {"outcome": "run-failed", "detail": "\\x1b[2J\\x1b]0;x\\x07"}}
    ),
    "failure-long": each(
        lambda r: {"failure": {"outcome": "run-failed", "detail": "x" * 5_000_000}}
    ),
    "facts-list": each(lambda result: {**result, "facts": [1]}),
    "device-list": put("device", []),
    "readings-garbage": put("readings", [None, 3, {"texts": 5}]),
    "peak-text": put("peak_memory_bytes", "much"),
}


def bomb(path):
    numpy.savez_compressed(path, output=numpy.zeros((60, 60_000_000), numpy.uint8))


OUTPUTS = {
    "outputs-missing": lambda path: path.unlink(),
    "outputs-truncated": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "outputs-empty": lambda path: numpy.savez(path),
    "outputs-shape": lambda path: numpy.savez(path, **{
        name: value[:1] for name, value in numpy.load(path).items()}),
    "outputs-nan": lambda path: numpy.savez(path, **{
        name: value * numpy.nan for name, value in numpy.load(path).items()}),
    "outputs-objects": lambda path: numpy.savez(path, **{
        name: numpy.array([print] * len(value), dtype=object)
        for name, value in numpy.load(path).items()}),
    "outputs-text": lambda path: numpy.savez(path, **{
        name: numpy.full(value.shape, "x") for name, value in numpy.load(path).items()}),
}
'''

FORMAT = '''
"""A format whose converter fails as the environment variable FAULTY says."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from edgekd.artifacts.graph import Graph
from edgekd.artifacts.operators import OperatorRoles

TITLE, SUFFIX, RUNTIME, EXTRA = "Faulty", ".faulty", "faulty", "faulty"
PACKAGES = ("safetensors",)
SCHEMES = {"fp32": "weights in fp32"}
OPERATORS = OperatorRoles(products=("linear",), weighted=frozenset({"linear"}))
AGENT_RUNTIME = Path(__file__).with_name("faulty_runtime.py")


def flood():
    for _ in range(40_000):
        os.write(1, b"x" * 65_536)


def hang():
    time.sleep(600)


def hang_deaf():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    hang()


def grandchild():
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    os.abort()


def eat():
    blocks = []
    while True:
        blocks.append(bytearray(b"x" * 2**28))


def fail(error):
    raise error


MODES = {
    "raises": lambda: fail(ValueError("no such operator")),
    "raises-empty": lambda: fail(RuntimeError()),
    "exits": lambda: sys.exit(3),
    "exits-silently": lambda: os._exit(0),
    "aborts": os.abort,
    "segfaults": lambda: ctypes.string_at(0),
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "recursion": lambda: recurse(),
    "floods": flood,
    "floods-and-hangs": lambda: (flood(), hang()),
    "hangs": hang,
    "hangs-deaf": hang_deaf,
    "leaves-a-child": grandchild,
    "memory": lambda: fail(MemoryError("cannot allocate")),
    "writes-nothing": lambda: None,
}


def recurse():
    return recurse()


def convert(network, calibration, path, options):
    mode = os.environ["FAULTY"]
    if mode == "writes-a-folder":
        Path(path).mkdir()
    elif mode == "writes-empty":
        Path(path).write_bytes(b"")
    else:
        MODES[mode]()
    return "faulty"


def read_graph(path):
    return Graph("faulty", Counter(), 1, 1, OPERATORS)
'''

RUNTIME = """
class Runtime:
    packages = ("torch",)

    def __init__(self, torch, path, job):
        raise ValueError("this file has no network")
"""


def install(site: Path) -> None:
    """Write the package and its entry points to `site`, which goes into PYTHONPATH."""
    info = site / "faulty-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "faulty_device.py").write_text(DEVICE, encoding="utf-8")
    (site / "faulty_format.py").write_text(FORMAT, encoding="utf-8")
    (site / "faulty_runtime.py").write_text(RUNTIME, encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[edgekd.devices]\nfaulty = faulty_device\n[edgekd.formats]\nfaulty = faulty_format\n"
    )
