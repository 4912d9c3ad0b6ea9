"""Bad answers of a device: each fails its own artifact, with a sentence, not the whole run."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import edgekd
from edgekd.benchmarking import measure
from edgekd.devices import DEVICES, local
from edgekd.devices.transport import openssh
from edgekd.devices.transport.openssh import Connection
from edgekd.errors import RecipeError, UnreachableError
from edgekd.recipe.benchmark import THOROUGH
from edgekd.system.process import Completed
from tests.support.models import TRAPS
from tests.support.project import assert_five_parts
from tests.support.skips import need_modules, need_program

pytestmark = pytest.mark.converter


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "RETRY_S", (0.0,))


SHORT = replace(THOROUGH, runs=20, seconds=0.0, warm_up_s=0.0, warm_up_limit_s=0.05, processes=1)
Mutation = Callable[[Path], None]


@pytest.fixture(scope="module")
def model() -> tuple[edgekd.Network, dict[str, torch.Tensor]]:
    need_modules("onnx", "onnxscript", "onnxruntime")
    trap = TRAPS["signal"]
    example = trap.draw(1, torch.Generator().manual_seed(0))
    return edgekd.load_network(trap.build(), example=example), example


@pytest.fixture(scope="module")
def artifact(
    model: tuple[edgekd.Network, Any], tmp_path_factory: pytest.TempPathFactory
) -> edgekd.Artifact:
    return edgekd.export(model[0], format="onnx", out=tmp_path_factory.mktemp("build"))


class Board:
    """A device that answers as this host did, with one part of the reply changed.

    The agent runs once per kind of job; its reply is kept for the other cases.
    """

    def __init__(self, kept: Path, change: Mutation) -> None:
        self.kept, self.change = kept, change

    def run_agent(self, url: str, folder: Path, *, timeout_s: float) -> None:  # noqa: ARG002
        job = json.loads((folder / "job.json").read_text())
        names = "-".join(sorted(entry["name"].replace("/", "_") for entry in job["artifacts"]))
        kept = self.kept / f"{job['action']}-{job.get('runs')}-{names}"[-200:]
        if not kept.exists():
            local.run_agent("local", folder, timeout_s=timeout_s)
            kept.mkdir()
            for path in [folder / "report.json", *folder.glob("outputs-*.npz")]:
                shutil.copy(path, kept)
        for path in kept.iterdir():
            shutil.copy(path, folder)
        self.change(folder)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


def gone(folder: Path) -> None:
    (folder / "report.json").unlink()


def as_folder(folder: Path) -> None:
    gone(folder)
    (folder / "report.json").mkdir()


def raw(data: bytes) -> Mutation:
    def change(folder: Path) -> None:
        (folder / "report.json").write_bytes(data)

    return change


def without(*keys: str) -> Mutation:
    def change(folder: Path) -> None:
        document = json.loads((folder / "report.json").read_text())
        for key in keys:
            document.pop(key)
        (folder / "report.json").write_text(json.dumps(document))

    return change


def whole(**values: Any) -> Mutation:
    def change(folder: Path) -> None:
        document = json.loads((folder / "report.json").read_text())
        (folder / "report.json").write_text(json.dumps({**document, **values}))

    return change


def result(**values: Any) -> Mutation:
    """Changes the result of the first artifact; a value of `...` removes the key."""

    def change(folder: Path) -> None:
        document = json.loads((folder / "report.json").read_text())
        name = sorted(document["results"])[0]
        changed = {**document["results"][name], **values}
        document["results"][name] = {k: v for k, v in changed.items() if v is not ...}
        (folder / "report.json").write_text(json.dumps(document))

    return change


def instead(value: Any) -> Mutation:
    def change(folder: Path) -> None:
        document = json.loads((folder / "report.json").read_text())
        document["results"][sorted(document["results"])[0]] = value
        (folder / "report.json").write_text(json.dumps(document))

    return change


def arrays(**values: Any) -> Mutation:
    return lambda folder: np.savez(folder / "outputs-artifact.npz", **values)


def archive(data: bytes) -> Mutation:
    def change(folder: Path) -> None:
        (folder / "outputs-artifact.npz").write_bytes(data)

    return change


def claimed(shape: str, data: bytes = b"", dtype: str = "<f4") -> bytes:
    """An .npz whose array has this header and these bytes."""
    header = f"{{'descr':'{dtype}','fortran_order':False,'shape':{shape}}}".encode()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        magic = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little")
        made.writestr("y.npy", magic + header + data)
    return file.getvalue()


def failing(outcome: Any, detail: Any = "because") -> Mutation:
    return result(failure={"outcome": outcome, "detail": detail})


DIGITS = b'{"version": ' + b"9" * 5000 + b"}"

BOTH: dict[str, tuple[Mutation, str]] = {
    "no report": (gone, "there is no file report.json"),
    "a folder as the report": (as_folder, "there is no file report.json"),
    "an empty report": (raw(b""), "is not JSON"),
    "a truncated report": (raw(b'{"version": 3, "results": {'), "is not JSON"),
    "binary": (raw(bytes(range(256))), "is not JSON"),
    "an HTML page": (raw(b"<html>login</html>"), "is not JSON"),
    "5,000 brackets": (raw(b"[" * 100_000), "is not JSON"),
    "5,000 digits": (raw(DIGITS), "is not JSON"),
    "a list": (raw(b"[]"), "not an object"),
    "null": (raw(b"null"), "not an object"),
    "no results": (without("results"), "results is None"),
    "results as a list": (whole(results=[1]), "results is [1]"),
    "no device": (without("device"), "device is None"),
    "the machine as a list": (whole(device={"machine": ["a"]}), "device.machine"),
    "the memory as a text": (whole(peak_memory_bytes="3 MB"), "peak_memory_bytes"),
    "negative memory": (whole(peak_memory_bytes=-1), "peak_memory_bytes"),
    "memory beyond 64 bits": (whole(peak_memory_bytes=10**200), "peak_memory_bytes"),
    "the start as an object": (whole(start_ns={}), "start_ns"),
    "readings as a text": (whole(readings="hot"), "readings is 'hot'"),
    "a number as the result": (instead(3), "the result is 3"),
    "no result": (instead(None), "has no result"),
    "facts as a list": (result(facts=[]), "facts is []"),
    "facts that are not finite": (result(facts={"a": float("nan")}), "not a finite number"),
    "facts nested too deep": (result(facts=json.loads('{"a":' * 50 + "1" + "}" * 50)), "nested"),
    "an unknown outcome": (failing("exploded"), "the outcome 'exploded'"),
    "passed as a failure": (failing("passed"), "the outcome 'passed'"),
    "over budget as a failure": (failing("over-budget"), "the outcome 'over-budget'"),
    "an outcome as a list": (failing(["run-failed"]), "the outcome ['run-failed']"),
    "a detail as a number": (failing("run-failed", 3), "failure.detail is 3"),
    "a failure as a text": (result(failure="yes"), "failure is 'yes'"),
}
"""Changes of a reply to any job, each with a part of its sentence."""

RUN: dict[str, tuple[Mutation, str]] = {
    "no inputs": (result(inputs=...), "inputs is None"),
    "inputs as texts": (result(inputs=["x"]), "inputs is"),
    "a shape as a text": (result(inputs=[["x", "1x3", "float32"]]), "inputs is"),
    "outputs as a number": (result(outputs=7), "outputs is 7"),
    "the same output twice": (result(outputs=["y", "y"]), "not a list of names"),
    "no arrays": (lambda f: (f / "outputs-artifact.npz").unlink(), "there is no outputs-"),
    "arrays that are no archive": (archive(b"PK but no zip"), "cannot be read"),
    "another output": (arrays(other=np.ones((8, 2), np.float32)), "lacks the output"),
    "an array of objects": (arrays(y=np.array([{}, 3], dtype=object)), "of object"),
    "an array of texts": (arrays(y=np.array(["NaN", "1"])), "not of numbers"),
    "a single number": (arrays(y=np.float32(3)), "single number"),
    "40 GB": (archive(claimed("(10000000000,)")), "claims 40000000000 bytes"),
    "a negative size": (archive(claimed("(-1,)")), "claims"),
    "a short array": (archive(claimed("(2,)", b"\0" * 4)), "bytes, not 8"),
    "a header that is code": (archive(claimed("__import__('os').getpid()")), "cannot be read"),
    "a pickle": (archive(claimed("(1,)", b"\x80\x04K\x01.", "|O")), "of object"),
    "another shape": (None, "another shape"),  # type: ignore[dict-item]
}

TIME: dict[str, tuple[Mutation, str]] = {
    "no time to load": (result(init_ns=...), "init_ns is None"),
    "a negative time": (result(first_ns=-5), "first_ns is -5"),
    "a time that is not a number": (result(init_ns=float("nan")), "init_ns is nan"),
    "an infinite time": (result(init_ns=float("inf")), "init_ns is inf"),
    "a time as a text": (result(first_ns="1 ms"), "first_ns is '1 ms'"),
    "a time as a boolean": (result(first_ns=True), "first_ns is True"),
    "blocks as a number": (result(blocks_ns=3), "blocks_ns is 3"),
    "no blocks": (result(blocks_ns=[]), "no latencies"),
    "an empty block": (result(blocks_ns=[[]]), "no latencies"),
    "latencies as texts": (result(blocks_ns=[["NaN"]]), "blocks_ns[0] is 'NaN'"),
    "latencies of zero": (result(blocks_ns=[[0, 0]]), "blocks_ns[0] is 0"),
    "a list as a latency": (result(blocks_ns=[[[1]]]), "blocks_ns[0] is [1]"),
    "a summary without a count": (result(told={"figures": [[0.5, 1.0]]}), "told.count"),
    "a summary of no figures": (result(told={"count": 3, "figures": []}), "does not ascend"),
    "a share of two": (result(told={"count": 3, "figures": [[2, 1.0]]}), "told.figures has"),
    "figures that fall": (
        result(told={"count": 3, "figures": [[0.5, 2.0], [0.9, 1.0]]}), "does not ascend"),
    "settled as a text": (result(settled="yes"), "settled is 'yes'"),
    "warm-ups below zero": (result(warm_up_count=-1), "warm_up_count is -1"),
}  # fmt: skip


@pytest.mark.parametrize("case", [*BOTH, *RUN])
def test_a_bad_answer_fails_the_verification_with_a_sentence(
    case: str, kept: Path, artifact: edgekd.Artifact, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, expected = {**BOTH, **RUN}[case]
    if case == "another shape":
        spec = artifact.signature
        assert spec is not None
        change = arrays(**{entry.name: np.ones((3, 99), np.float32) for entry in spec.outputs})
    monkeypatch.setitem(DEVICES, "bad", Board(kept, change))
    samples = [TRAPS["signal"].draw(8, torch.Generator().manual_seed(1))]
    with pytest.raises(edgekd.EdgekdError) as stop:
        edgekd.verify(artifact, model[0], samples, device="bad://board")
    assert stop.value.exit_code in (5, 6, 7), stop.value
    assert expected in str(stop.value)
    assert_five_parts(str(stop.value))


@pytest.mark.parametrize("case", [*BOTH, *TIME])
def test_a_bad_answer_fails_the_benchmark_with_a_sentence(
    case: str,
    kept: Path,
    artifact: edgekd.Artifact,
    monkeypatch: pytest.MonkeyPatch,
    edgekd_cli: Any,
) -> None:
    change, expected = {**BOTH, **TIME}[case]
    monkeypatch.setitem(DEVICES, "bad", Board(kept, change))
    ended = edgekd_cli("benchmark", artifact.path, "--device", "bad://board", "--quick")
    assert ended.code in (5, 6), ended
    assert expected in ended.err + ended.out
    assert "Traceback" not in ended.err


def test_escape_codes_of_a_board_reach_no_terminal(
    kept: Path, artifact: edgekd.Artifact, monkeypatch: pytest.MonkeyPatch, edgekd_cli: Any
) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J red\u202e"
    monkeypatch.setitem(DEVICES, "bad", Board(kept, failing("run-failed", evil)))
    ended = edgekd_cli("benchmark", artifact.path, "--device", "bad://board", "--quick")
    assert ended.code == 5
    assert not {"\x1b", "\x07", "\u202e"} & set(ended.out + ended.err)
    assert "\\x1b]0;owned" in ended.err + ended.out


def test_other_artifacts_of_the_job_and_bad_readings_keep_their_figures(
    kept: Path, artifact: edgekd.Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(folder: Path) -> None:
        document = json.loads((folder / "report.json").read_text())
        if len(document["results"]) == 2:
            document["results"]["a"]["blocks_ns"] = "none"
        document["readings"] = [3, {"at_s": "now"}, *document["readings"]]
        (folder / "report.json").write_text(json.dumps(document))

    monkeypatch.setitem(DEVICES, "bad", Board(kept, change))
    settings = measure.MeasurementSettings(device="bad://board", protocol=SHORT)
    measured = measure.measure({"a": artifact, "b": artifact}, settings, parents={})
    assert measured["a"].outcome.value == "run-failed"  # type: ignore[union-attr]
    good = measured["b"]
    assert isinstance(good, measure.Measurement)
    assert good.percentile_ms(0.5).value > 0
    assert "not understood" in json.dumps(good.device["before"])


def tar(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as made:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            made.addfile(entry, io.BytesIO(data))
    return file.getvalue()


GOOD_TAR = tar({"made.json": b"{}", "report.json": b"{}" * 2000})


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"Welcome to the board!\n" * 30,
        GOOD_TAR[:700],
        GOOD_TAR[:3000],
        tar({"made.json": b"not json", "report.json": b"{}"}),
        tar({"made.json": b"[]", "report.json": b"{}"}),
        tar({"made.json": b"[" * 100_000}),
        tar({"made.json": b'{"report.json": 3}', "report.json": b"{}"}),
        tar({"report.json": b"{}"}),
    ],
)
def test_a_bad_tar_is_an_unreachable_board(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "must", lambda *_, **__: Completed(0, answer, ""))
    with pytest.raises(UnreachableError) as stop:
        Connection("ssh://pi@board", ()).fetch(r"report\.json", "/tmp/x", timeout_s=1)
    assert_five_parts(str(stop.value))


@contextmanager
def server(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A TCP server that does `answer` with each connection."""
    listener = socket.create_server(("127.0.0.1", 0))
    kept: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            kept.append(connection)
            answer(connection)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.close()
        for connection in kept:
            connection.close()


@pytest.mark.parametrize(
    "answer",
    [
        lambda connection: connection.close(),
        lambda connection: connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n") or connection.close(),
        lambda connection: (
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n") or connection.close()
        ),
        lambda _: None,
    ],
    ids=["closes at once", "closes after its version", "speaks HTTP", "never answers"],
)
def test_a_board_that_drops_the_connection_is_unreachable_in_time(
    answer: Callable[[socket.socket], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    need_program("ssh")
    monkeypatch.setattr(openssh, "CONNECT_S", 2)
    begin = time.monotonic()
    with server(answer) as port, pytest.raises(UnreachableError) as stop:  # noqa: SIM117
        with openssh.connected(f"ssh://127.0.0.1:{port}"):
            pass
    assert time.monotonic() - begin < 8
    assert_five_parts(str(stop.value))


@pytest.mark.parametrize(
    "url",
    ["ssh://pi@[fe80::1", "ssh://pi@fe80::1]:22", "ssh://pi@fe80::1:22", "ssh://pi@[]", "ssh://[x]",
     "ssh://pi@pi5:port", "ssh://pi@pi5:0", "ssh://pi@pi5:65536", "ssh://pi@pi5:-1", "ssh://@pi5",
     "ssh://pi@", "ssh://", "ssh://pi@-oProxyCommand=x", "ssh://pi@pi5 x", "ssh://pi@pi5\x00",
     "ssh://pi@pi5\n", "adb://[", "adb://-a", "emulated://[", "emulated://cortex\x1b", "nope://x",
     "://", ""],
)  # fmt: skip
def test_a_wrong_url_is_an_error_of_the_arguments(
    url: str, artifact: edgekd.Artifact, edgekd_cli: Any
) -> None:
    if "\x00" in url:
        with pytest.raises(RecipeError) as stop:
            edgekd.benchmark(artifact, device=url)
        assert_five_parts(str(stop.value))
        return
    ended = edgekd_cli("benchmark", artifact.path, "--device", url)
    assert ended.code == 2, ended
    assert_five_parts(ended.err)


@pytest.mark.parametrize(
    ("url", "args"),
    [
        ("ssh://pi@[fe80::1]:22", ["-p", "22", "--", "pi@fe80::1"]),
        ("ssh://pi@[fe80::1%25eth0]", ["--", "pi@fe80::1%eth0"]),
        ("ssh://me@corp.example@pi5", ["--", "me@corp.example@pi5"]),
        ("ssh://Pi_5:2222", ["-p", "2222", "--", "Pi_5"]),
    ],
)
def test_an_address_reaches_ssh_as_it_is(url: str, args: list[str]) -> None:
    assert openssh.host_args(url) == args


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_of_few_characters_gets_text(
    encoding: str, artifact: edgekd.Artifact, tmp_path: Path
) -> None:
    odd = tmp_path / "мой файл ✓.json"
    env = {**os.environ, "PYTHONIOENCODING": encoding, "LANG": "C", "LC_ALL": "C"}
    for args, code in (
        (["--help"], 0),
        (["targets", "raspberry-pi-5-litert"], 0),
        (["export", "--help"], 0),
        (["benchmark", str(artifact.path), "--device", f"imported://{odd}"], 2),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "edgekd", *args], env=env, capture_output=True, check=False
        )
        text = (done.stdout + done.stderr).decode(encoding)
        assert done.returncode == code, text
        assert "Traceback" not in text
