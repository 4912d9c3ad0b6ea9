"""Benchmarks of real files in their runtimes: the protocol, fallbacks and throttling."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import edgekd
from edgekd.artifacts.target import Budget
from edgekd.benchmarking import measure as measuring
from edgekd.benchmarking.benchmark import benchmark, time_all
from edgekd.devices import DEVICES, local
from edgekd.devices.job import Job, run_job
from edgekd.devices.on_device import agent
from edgekd.errors import DisagreementError, UnreachableError
from edgekd.evidence.budget import judge_budget
from edgekd.evidence.measurement import Measurement
from edgekd.evidence.outcome import Outcome, Verdict
from edgekd.recipe.benchmark import QUICK, Protocol
from edgekd.report import read_run
from tests.support.project import Project, assert_five_parts, tiny_recipe
from tests.support.skips import need_modules

pytestmark = pytest.mark.converter

SHORT = Protocol(
    processes=3, runs=20, seconds=0.05, turn_s=0.0, warm_up_s=0.0, warm_up_limit_s=1.0, cool_s=0.0
)


@pytest.fixture(autouse=True)
def _own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class Odd(nn.Module):
    """CUMSUM, which XNNPACK does not support, between operators that it does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 8, 3, 1, 1), nn.Linear(8, 10)

    def forward(self, image: Tensor) -> Tensor:
        maps = torch.cumsum(self.conv(image).relu(), 1)
        return self.linear(torch.sin(maps.mean((2, 3))).cumsum(1))


class Logarithm(nn.Module):
    """Outputs NaN if its weights are negative."""

    def __init__(self, offset: float) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 3)
        nn.init.zeros_(self.linear.weight)
        nn.init.constant_(self.linear.bias, offset)

    def forward(self, x: Tensor) -> Tensor:
        return torch.log(self.linear(x))


def made(module: nn.Module, example: Tensor, format: str, out: Path, **options: Any) -> Any:
    need_modules(*edgekd.formats.FORMATS[format].PACKAGES)
    network = edgekd.load_network(module.eval(), example={"x": example})
    return edgekd.export(network, format=format, out=out, **options)


@pytest.fixture(scope="module")
def onnx(tmp_path_factory: pytest.TempPathFactory) -> edgekd.Artifact:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 3))
    return made(module, torch.zeros(1, 8), "onnx", tmp_path_factory.mktemp("onnx"))


def test_phases_are_separate_and_every_sample_is_kept_by_process(onnx: edgekd.Artifact) -> None:
    measured = benchmark(onnx, protocol=SHORT)
    assert [len(process) >= SHORT.runs for process in measured.samples_ns] == [True] * 3
    for phase in (measured.start_ms, measured.import_ms, measured.init_ms, measured.first_ms):
        assert phase is not None
        assert phase > 0
    assert measured.warm_up_count >= 3 * 10
    assert measured.device["runtime"]["providers"] == ["CPUExecutionProvider"]
    document = json.loads(json.dumps(measured.to_json(), allow_nan=False))
    assert document["protocol"] == "own"
    assert document["min_ms"] <= document["p50_ms"] <= document["p95_ms"] <= document["max_ms"]
    assert Measurement.from_json(document) == measured


def test_short_inferences_are_sampled_over_the_whole_time(onnx: edgekd.Artifact) -> None:
    spread = Protocol(
        processes=1, runs=20, seconds=0.5, block=20, turn_s=0.05, warm_up_s=0.0, cool_s=0.0
    )
    measured = benchmark(onnx, protocol=spread)
    # A turn is 20 samples, however many inferences fit into it.
    assert 20 <= len(measured.samples_ms) <= 10 * 20


def test_sensors_are_read_before_during_and_after(
    onnx: edgekd.Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stubs print the output of a board's programs, which no host has."""
    programs = tmp_path / "bin"
    programs.mkdir()
    line = "RAM 1/2MB (lfb 1x2MB) CPU [9%@2201] tj@52C VDD_IN 5000mW/4900mW"
    pids = tmp_path / "pids"
    for name, script in {
        "vcgencmd": 'case "$1" in get_throttled) echo throttled=0x50005;; '
        "measure_temp) echo \"temp=71.5'C\";; *) echo 'frequency(0)=1500006144';; esac",
        "tegrastats": f"echo $$ >> {pids}; while :; do echo '{line}'; sleep 0.2; done",
        "nvpmodel": "echo 'NV Power Mode: 15W'; echo 2",
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    measured = benchmark(onnx, protocol=Protocol(processes=1, seconds=1.0, cool_s=0.0))
    before, during = measured.device["before"], measured.device["during"]
    assert before["slowed"] == ["throttled", "under-voltage"]
    assert before["power_mode"] == "15W"
    assert during["count"] >= 3
    assert during["clock_mhz"] == [pytest.approx(1500.006144)] * 2
    assert during["power_mw"] == {"VDD_IN": 5000}
    assert measured.doubts == ("throttled: throttled", "throttled: under-voltage")
    verdict = judge_budget(1, measured, Budget(latency_p90_ms=1000.0))
    assert verdict.outcome is Outcome.UNDECIDED
    assert "under-voltage" in verdict.detail
    for pid in pids.read_text().split():
        assert not alive(int(pid)), "tegrastats is ended with the measurement"


def alive(pid: int) -> bool:
    """Whether a process still runs after a few seconds."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        stat = Path(f"/proc/{pid}/stat")
        try:
            if stat.read_text().rpartition(")")[2].split()[0] == "Z":
                return False
        except OSError:
            return False
        time.sleep(0.1)
    return True


def test_operators_that_xnnpack_took_are_counted(tmp_path: Path) -> None:
    artifact = made(Odd(), torch.zeros(1, 3, 8, 8), "litert", tmp_path)
    facts = benchmark(artifact, protocol=SHORT).device["runtime"]
    assert facts["delegate"] == "XNNPACK"
    assert facts["partitions"] >= 2
    assert 0 < facts["delegated"] <= facts["operators"] - 2, "two CUMSUM are none of its own"


def test_a_model_without_xnnpack_operators_fell_back(tmp_path: Path) -> None:
    artifact = made(Odd(), torch.zeros(1, 3, 8, 8), "litert", tmp_path)
    from ai_edge_litert import interpreter

    # As on systems that pytorch/cpuinfo cannot read, where XNNPACK is not used.
    without = interpreter.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES

    def plain(**options: Any) -> Any:
        return interpreter.Interpreter(experimental_op_resolver_type=without, **options)

    package = SimpleNamespace(Interpreter=plain, __name__=interpreter.__name__)
    model = agent.LiteRt(package, str(artifact.path), {"threads": 1})
    assert model.facts["delegated"] == 0
    assert "took none of its" in model.fell_back


def test_a_provider_that_computes_nothing_is_a_fallback_with_its_count(
    onnx: edgekd.Artifact,
) -> None:
    job = Job("run", "onnxruntime", {"a": onnx.path}, 1, providers=["CUDAExecutionProvider"])
    result = run_job("local", job).results["a"]
    assert result["failure"]["outcome"] == "fell-back"
    assert re.search(
        r"CUDAExecutionProvider took none of its \d+ nodes", result["failure"]["detail"]
    )
    assert list(result["facts"]["nodes"]) == ["CPUExecutionProvider"]
    # A requested provider that is installed reports its number of nodes.
    job = Job("run", "onnxruntime", {"a": onnx.path}, 1, providers=["CPUExecutionProvider"])
    result = run_job("local", job).results["a"]
    assert result["failure"] is None
    assert result["facts"]["nodes"]["CPUExecutionProvider"] > 0


def test_openvino_reports_the_nodes_of_each_precision(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3))
    samples = [{"x": torch.randn(1, 3, 16, 16)} for _ in range(4)]
    artifact = made(
        module, torch.zeros(1, 3, 16, 16), "openvino", tmp_path, scheme="int8", calibration=samples
    )
    facts = run_job("local", Job("run", "openvino", {"a": artifact.path}, 1)).results["a"]["facts"]
    assert {"i8", "u8"} & set(facts["nodes"])


@pytest.mark.parametrize("format", ["onnx", "openvino", "litert"])
def test_a_model_with_outputs_that_are_not_finite_has_no_latency(
    tmp_path: Path, format: str
) -> None:
    artifact = made(Logarithm(-1.0), torch.zeros(1, 8), format, tmp_path)
    with pytest.raises(DisagreementError, match="is not finite") as stop:
        benchmark(artifact, protocol=QUICK)
    assert_five_parts(str(stop.value))


@dataclass
class Way:
    """The local device, with a function called before and after each job."""

    before: Callable[[Path, int], None] = lambda folder, number: None  # noqa: ARG005
    after: Callable[[Path, int], None] = lambda folder, number: None  # noqa: ARG005
    jobs: list[str] = field(default_factory=list)

    def run_agent(self, url: str, folder: Path, *, timeout_s: float) -> None:
        self.jobs.append(url)
        self.before(folder, len(self.jobs))
        local.run_agent("local", folder, timeout_s=timeout_s)
        self.after(folder, len(self.jobs))


def test_a_file_damaged_in_transit_is_not_run(
    onnx: edgekd.Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damage(folder: Path, number: int) -> None:  # noqa: ARG001
        for path in folder.glob("*/*.onnx"):
            path.write_bytes(path.read_bytes()[:-1] + b"\x00")

    monkeypatch.setitem(DEVICES, "damaging", Way(before=damage))
    measured = time_all([onnx], device="damaging://x", protocol=SHORT)[0]
    assert isinstance(measured, Verdict)
    assert measured.outcome is Outcome.LOAD_FAILED
    assert "model.onnx differs from the file that was sent" in measured.detail


def test_an_agent_of_another_version_is_refused_on_both_sides(
    onnx: edgekd.Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    def older(folder: Path, number: int) -> None:  # noqa: ARG001
        report = json.loads((folder / "report.json").read_text())
        (folder / "report.json").write_text(json.dumps({**report, "version": 1}))

    monkeypatch.setitem(DEVICES, "older", Way(after=older))
    with pytest.raises(UnreachableError, match="another version of the agent") as stop:
        benchmark(onnx, device="older://x", protocol=SHORT)
    assert_five_parts(str(stop.value))

    def newer(folder: Path, number: int) -> None:  # noqa: ARG001
        job = json.loads((folder / "job.json").read_text())
        (folder / "job.json").write_text(json.dumps({**job, "version": 99}))

    monkeypatch.setitem(DEVICES, "newer", Way(before=newer))
    with pytest.raises(edgekd.EdgekdError, match="cannot do a job of version 99"):
        run_job("newer://x", Job("run", "onnxruntime", {"a": onnx.path}, 1))


def lose(numbers: set[int]) -> Callable[[Path, int], None]:
    """Loses the connection at these jobs."""

    def cut(folder: Path, number: int) -> None:  # noqa: ARG001
        if number in numbers:
            raise UnreachableError(
                edgekd.errors.Fault("The board is gone.", "x", "connection reset", "it", "look")
            )

    return cut


def test_a_reconnected_device_loses_no_sample(
    onnx: edgekd.Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "RETRY_S", (0.0, 0.0))
    way = Way(after=lose({3, 4}))
    monkeypatch.setitem(DEVICES, "flaky", way)
    measured = benchmark(onnx, device="flaky://x", protocol=SHORT)
    assert len(way.jobs) == 1 + 3 + 2
    assert len(measured.samples_ns) == 3
    assert measured.doubts == ()


def test_a_lost_device_leaves_its_samples_and_no_verdict(
    onnx: edgekd.Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "RETRY_S", (0.0, 0.0))
    monkeypatch.setitem(DEVICES, "gone", Way(after=lose(set(range(4, 99)))))
    measured = benchmark(onnx, device="gone://x", protocol=SHORT)
    assert len(measured.samples_ns) == 2
    assert "lost after 2 process(es): connection reset" in measured.doubts[0]
    verdict = judge_budget(1, measured, Budget(latency_p50_ms=1e6))
    assert verdict.outcome is Outcome.UNDECIDED
    monkeypatch.setitem(DEVICES, "never", Way(after=lose(set(range(99)))))
    with pytest.raises(UnreachableError, match="connection reset"):
        benchmark(onnx, device="never://x", protocol=SHORT)


def test_an_open_budget_takes_more_looks_but_at_most_three(
    onnx: edgekd.Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    way = Way()
    monkeypatch.setitem(DEVICES, "counted", way)
    reported: list[str] = []

    def report(stage: str, item: str, done: int = 0, total: int = 0) -> None:
        assert stage == "benchmark"
        assert done <= total
        reported.append(item)

    options: dict[str, Any] = {"device": "counted://x", "protocol": SHORT, "progress": report}
    measured = time_all([onnx], budget=Budget(latency_p99_ms=1e9), **options)[0]
    assert isinstance(measured, Measurement)
    looks = (len(way.jobs) - 1) // 3
    assert looks == 1 + sum("more samples" in item for item in reported)
    assert 1 <= looks <= 3
    assert len(measured.samples_ns) == 3 * looks, "the samples of all looks are kept"
    # A limit equal to the measured value stays undecided after three looks.
    way.jobs.clear()
    middle = measured.percentile_ms(0.5).value
    again = time_all([onnx], budget=Budget(latency_p50_ms=middle), **options)[0]
    assert isinstance(again, Measurement)
    assert (len(way.jobs) - 1) // 3 == len(again.samples_ns) // 3 <= 3


def test_two_devices_are_timed_concurrently_and_targets_of_one_in_turn(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_modules(*edgekd.formats.FORMATS["onnx"].PACKAGES)
    # The barrier breaks, and a row fails, unless both devices begin at the same time.
    both = threading.Barrier(2, timeout=120)
    busy: dict[str, int] = {"one": 0, "two": 0}
    met: set[str] = set()

    def times(folder: Path) -> bool:
        return bool(json.loads((folder / "job.json").read_text())["action"] == "time")

    for name in busy:

        def before(folder: Path, number: int, name: str = name) -> None:  # noqa: ARG001
            if times(folder):
                busy[name] += 1
                assert busy[name] == 1, "two timings on one device"
                if name not in met:
                    met.add(name)
                    both.wait()

        def after(folder: Path, number: int, name: str = name) -> None:  # noqa: ARG001
            busy[name] -= times(folder)

        monkeypatch.setitem(DEVICES, name, Way(before=before, after=after))
    for name in ("a", "b", "c"):
        (project.folder / f"{name}.toml").write_text(
            'format = "onnx"\nschemes = ["fp32"]\nmachine = "x86_64"\n'
        )
    document = tiny_recipe()
    document["targets"] = [
        {"name": "a.toml", "device": "one://x"},
        {"name": "b.toml", "device": "two://x"},
        {"name": "c.toml", "device": "one://x"},
    ]
    result = edgekd.run(project.write(document), out=project.folder / "runs")
    assert [(row.target, row.outcome) for row in result.rows] == [
        ("a", Outcome.PASSED),
        ("b", Outcome.PASSED),
        ("c", Outcome.PASSED),
    ]
    assert met == {"one", "two"}
    # The report shows the latencies of all devices, even those that are measured in every run.
    assert sorted(read_run(result.folder).samples_ms) == ["a", "b", "c"]


def test_ctrl_c_during_a_measurement_leaves_nothing_running(
    onnx: edgekd.Artifact, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "edgekd.cli", "benchmark", str(onnx.path)],
        env={**os.environ, "TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "process 1" in line:
            break
    until = time.monotonic() + 60
    while not (agents := commands(scratch)) and time.monotonic() < until:
        time.sleep(0.05)
    assert agents, "the agent is at work"
    os.kill(process.pid, signal.SIGINT)  # The process only: it must end its own children.
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert not any(alive(pid) for pid in agents), "neither the agent nor what reads the sensors"
    assert list(scratch.glob("edgekd-job-*")) == []


def commands(folder: Path) -> list[int]:
    """The processes with a path in `folder` on their command line."""
    measured = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in entry.read_bytes():
                measured.append(int(entry.parent.name))
        except OSError:
            continue
    return measured


def test_files_must_agree_with_their_network_before_they_are_timed(
    edgekd_cli: Any, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_modules(*edgekd.formats.FORMATS["onnx"].PACKAGES)
    from safetensors.torch import save_file

    monkeypatch.chdir(project.folder)
    from edgekd.network.load import load_module

    for name, seed in (("right", 0), ("wrong", 1)):
        torch.manual_seed(seed)
        module, _ = load_module("models.py:student")
        save_file(module.state_dict(), f"{name}.safetensors")
        network = edgekd.load_network(
            "models.py:student", example={"input": torch.zeros(1, 8)}, weights=f"{name}.safetensors"
        )
        edgekd.export(network, format="onnx", out=name)
    save_file({"input": torch.randn(20, 8)}, "samples.safetensors")
    result = edgekd_cli(
        "benchmark", "right/onnx-fp32", "wrong/onnx-fp32", "--quick", "--samples",
        "samples.safetensors", "--against", "models.py:student", "--weights", "right.safetensors",
        "--json",
    )  # fmt: skip
    assert result.code == 7, result.err
    assert [entry["outcome"] for entry in result.json] == ["passed", "disagrees"]
    assert result.json[0]["measurement"]["protocol"] == "quick"
    assert result.json[1]["measurement"] is None, "a wrong model has no latency"
    assert_five_parts(result.err)
    alone = edgekd_cli("benchmark", "right/onnx-fp32", "--against", "models.py:student")
    assert alone.code == 2
    assert "--against needs --samples" in alone.err
    assert_five_parts(alone.err)


def test_two_files_are_compared_and_the_claim_is_printed(
    edgekd_cli: Any, onnx: edgekd.Artifact, tmp_path: Path
) -> None:
    larger = made(
        nn.Sequential(nn.Linear(8, 512), nn.ReLU(), nn.Linear(512, 512), nn.Linear(512, 3)),
        torch.zeros(1, 8), "onnx", tmp_path,
    )  # fmt: skip
    result = edgekd_cli("benchmark", onnx.path, larger.path, onnx.path, "--quick")
    assert result.code == 0, result.err
    slower, same = (line for line in result.out.splitlines() if " against " in line)
    assert str(larger.path) in slower
    assert "): slower;" in slower
    assert "times its p50 (" in same
    assert "differences under 1 %" in same
    assert result.out.count("QUICK: a first impression") == 3


def test_a_bundled_file_must_pass_its_golden_vectors_before_it_is_timed(
    edgekd_cli: Any, project: Project
) -> None:
    need_modules(*edgekd.formats.FORMATS["onnx"].PACKAGES)
    document = {**tiny_recipe(), "version": "1.0.0", "bundle": {"kinds": ["folder"]}}
    result = edgekd.run(project.write(document), out=project.folder / "runs")
    bundle = Path(result.bundles["folder"])
    shipped = next(bundle.rglob("model.onnx"))
    product = Path(result.rows[0].artifact.path) if result.rows[0].artifact else None
    for path in (shipped, product):
        command = edgekd_cli("benchmark", path, "--quick", "--golden", result.folder)
        assert command.code == 0, command.err
    expected = next((bundle / "golden" / "x86-cpu-onnx").glob("*.bin"))
    expected.write_bytes(bytes(len(expected.read_bytes())))
    command = edgekd_cli("benchmark", shipped, "--quick", "--golden", bundle)
    assert command.code == 7, command.err
    assert "disagrees, not measured" in command.out
    assert_five_parts(command.err)
    (project.folder / "other.onnx").write_bytes(shipped.read_bytes() + b"\x00")
    command = edgekd_cli("benchmark", project.folder / "other.onnx", "--golden", bundle)
    assert command.code == 2
    assert "does not contain" in command.err
    assert_five_parts(command.err)


def test_the_agreement_tool_runs_the_runtimes_own_tools(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for format in ("openvino", "litert"):
        need_modules(*edgekd.formats.FORMATS[format].PACKAGES)
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "tools")
    import benchmark_agreement as tool

    args = ["--rounds", "1", "--seconds", "0.2", "--pixels", "64", "--schemes", "fp32"]
    monkeypatch.setattr(sys, "argv", ["benchmark_agreement.py", *args])
    tool.main()
    out = capsys.readouterr().out
    for line in (
        r"openvino fp32 +benchmark_app / edgekd \d",
        r"litert fp32 +litert-benchmark / ed",
    ):
        assert re.search(line, out), out
    assert out.count("edgekd / edgekd") == 2, "the noise"
    # Twice the latency in every round is a certain ratio, even if the rounds differ.
    assert tool.interval([(2.0, 1.0), (4.0, 2.0), (1.0, 0.5)]) == (2.0, 2.0, 2.0)
