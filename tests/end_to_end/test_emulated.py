"""An emulated ARM core: the runtimes' ARM kernels under QEMU, compared with this host's."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from torch import nn

import edgekd
from edgekd.devices import emulated
from edgekd.devices.emulation import setup as userland_setup
from edgekd.devices.emulation import userland
from edgekd.devices.job import Job, Report, run_job
from edgekd.errors import (
    EdgekdError,
    MissingPackageError,
    RecipeError,
    RefusedError,
    UnreachableError,
)
from edgekd.formats import find_format
from tests.support.models import TRAPS
from tests.support.project import DATA, MODELS, assert_five_parts, tiny_recipe
from tests.support.skips import need_modules, need_program
from tests.support.sshd import served

pytestmark = [pytest.mark.converter, pytest.mark.usefixtures("device")]

COUNT = 8


def quiet(line: str) -> None:
    """Ignores the progress of a setup."""
    assert line


@pytest.fixture(scope="module")
def device() -> userland.Userland:
    """The emulated device, set up in the user's cache folder if necessary."""
    need_program("apt-get")
    need_program("cc")
    need_modules("onnxruntime", "ai_edge_litert")
    return emulated.setup(quiet)


class Wide(nn.Module):
    """Enough multiplications for kernels to dominate the instruction count."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 1),
            nn.ReLU(),
            nn.Conv2d(64, 64, 1),
            nn.ReLU(),
        )
        self.head = nn.Linear(64, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(image).mean((2, 3)))


def images(count: int, size: int) -> dict[str, torch.Tensor]:
    return {"image": torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(5))}


@cache
def exported(folder: Path, name: str, format: str, scheme: str) -> edgekd.Artifact:
    if name == "wide":
        torch.manual_seed(0)
        module, size = Wide().eval(), 32
    else:
        module, size = TRAPS[name].build(), 8
    network = edgekd.load_network(module, example=images(1, size))
    samples = [{"image": image[None]} for image in images(16, size)["image"]]
    return edgekd.export(
        network, format=format, scheme=scheme, calibration=samples, out=folder / f"{name}-{scheme}"
    )


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("build")


def job(artifact: edgekd.Artifact, action: str, size: int = 8) -> Job:
    return Job(
        action=action,
        runtime=find_format(artifact.format).RUNTIME,
        artifacts={"it": artifact.path},
        batches={"it": 1},
        channels_last={"it": artifact.channels_last},
        threads=1,
        inputs={name: value.numpy() for name, value in images(COUNT, size).items()},
        timeout_s=300,
    )


def result_of(report: Report) -> Mapping[str, Any]:
    result = report.results["it"]
    assert result["failure"] is None
    return result


@pytest.mark.parametrize("core", ["cortex-a76", "cortex-a72"])
@pytest.mark.parametrize("format", ["onnx", "litert"])
@pytest.mark.parametrize("scheme", ["fp32", "int8"])
def test_an_artifact_has_the_same_outputs_on_arm(
    build: Path, core: str, format: str, scheme: str
) -> None:
    artifact = exported(build, "depthwise", format, scheme)
    here = run_job("local", job(artifact, "run"))
    there = run_job(f"emulated://{core}", job(artifact, "run"))
    assert result_of(here)["facts"] == result_of(there)["facts"], "the same version, XNNPACK too"
    for name, ours in here.outputs["it"].items():
        theirs = there.outputs["it"][name]
        assert ours.shape == theirs.shape
        if format == "litert" and scheme == "int8":
            assert np.array_equal(ours, theirs), "integers leave nothing to round otherwise"
        # Sums of dozens of products in another order; int8 ONNX dequantizes in float32.
        assert np.abs(ours - theirs).max() <= 64 * np.finfo(np.float32).eps * np.abs(ours).max()


def test_openvino_has_the_same_outputs_on_arm(build: Path) -> None:
    need_modules("openvino")
    artifact = exported(build, "depthwise", "openvino", "fp32")
    here = run_job("local", job(artifact, "run"))
    there = run_job("emulated://cortex-a76", job(artifact, "run"))
    assert result_of(there)["facts"]["precision"] == "f32", "not fp16, which Arm's would choose"
    for name, ours in here.outputs["it"].items():
        difference = np.abs(ours - there.outputs["it"][name]).max()
        assert difference <= 64 * np.finfo(np.float32).eps * np.abs(ours).max()


def test_a_board_over_ssh_has_the_same_outputs(
    build: Path, device: userland.Userland, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real server whose python3 is an emulated ARM64 one."""
    there = tmp_path / "there"
    there.mkdir()
    python = shlex.join(device.command("cortex-a76", []))
    env = shlex.join(["env", *(f"{name}={value}" for name, value in device.env.items())])
    scripts = {
        "python3": f'exec {env} {python} "$@"',
        "land": f'PATH={there}:$PATH HOME={there} exec sh -c "$SSH_ORIGINAL_COMMAND"',
    }
    for name, text in scripts.items():
        (there / name).write_text(f"#!/bin/sh\n{text}\n")
        (there / name).chmod(0o755)
    artifact = exported(build, "depthwise", "litert", "int8")
    here = run_job("local", job(artifact, "run"))
    with served(tmp_path, f"ForceCommand {there}/land") as board:
        monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}")
        report = run_job(board.bare, job(artifact, "run"))
        assert board.connections == 1
    assert report.device["machine"] == "aarch64"
    assert result_of(report)["facts"]["delegate"] == "XNNPACK"
    for name, ours in here.outputs["it"].items():
        assert np.array_equal(ours, report.outputs["it"][name])
    assert board.clean


def test_a_report_names_the_emulation_and_has_no_latency(build: Path) -> None:
    report = run_job(
        "emulated://neoverse-n1", job(exported(build, "depthwise", "onnx", "fp32"), "run")
    )
    assert report.device["machine"] == "aarch64"
    assert report.device["emulated"] == "neoverse-n1"
    assert report.device["processor"].startswith("neoverse-n1, emulated by QEMU ")
    assert report.device["instructions"] == ["asimddp"]
    assert report.peak_memory_bytes is None
    assert not [name for name in result_of(report) if name.endswith(("_ns", "_ms"))]


@cache
def instructions(folder: Path, core: str, format: str, scheme: str) -> int:
    return counted(core, exported(folder, "wide", format, scheme))


def counted(core: str, artifact: edgekd.Artifact) -> int:
    counts = result_of(run_job(f"emulated://{core}", job(artifact, "count", 32)))["instructions"]
    assert counts["threads"] == 1
    assert counts["per_inference"] == min(counts["counts"]) > 0
    return int(counts["per_inference"])


@pytest.mark.parametrize("format", ["onnx", "litert"])
def test_instructions_repeat(build: Path, format: str) -> None:
    artifact = exported(build, "wide", format, "int8")
    first = instructions(build, "cortex-a76", format, "int8")
    second = counted("cortex-a76", artifact)
    assert abs(first - second) <= 0.001 * first


def test_int8_pays_off_only_on_a_core_with_dot_products(build: Path) -> None:
    counts = {
        (core, scheme): instructions(build, core, "litert", scheme)
        for core in ("cortex-a72", "cortex-a76")
        for scheme in ("fp32", "int8")
    }
    assert counts["cortex-a76", "int8"] < 0.7 * counts["cortex-a72", "int8"], counts
    assert counts["cortex-a76", "int8"] < 0.7 * counts["cortex-a76", "fp32"], counts
    # Dot products are for integers: float32 kernels are nearly the same on both cores.
    assert counts["cortex-a72", "fp32"] == pytest.approx(counts["cortex-a76", "fp32"], rel=0.05)


def test_more_threads_are_not_counted(build: Path) -> None:
    artifact = exported(build, "wide", "litert", "fp32")
    four = replace(job(artifact, "count", 32), threads=4)
    counts = result_of(run_job("emulated://cortex-a76", four))["instructions"]
    assert counts["threads"] == 1
    once = instructions(build, "cortex-a76", "litert", "fp32")
    assert counts["per_inference"] == pytest.approx(once, rel=0.001)


def test_an_emulator_times_nothing(build: Path) -> None:
    artifact = exported(build, "depthwise", "onnx", "fp32")
    with pytest.raises(RefusedError, match="emulated time is not device latency") as stop:
        run_job("emulated://cortex-a76", job(artifact, "time"))
    assert_five_parts(str(stop.value))
    with pytest.raises(RefusedError):
        edgekd.benchmark(artifact, device="emulated://cortex-a76")


def test_an_unknown_core_is_refused(build: Path) -> None:
    artifact = exported(build, "depthwise", "onnx", "fp32")
    for url, close in (("emulated://cortex-a75", "cortex-a7"), ("emulated://max", "cortex-a76")):
        with pytest.raises(RecipeError, match=f"use emulated://{close}") as stop:
            run_job(url, job(artifact, "run"))
        assert_five_parts(str(stop.value))


def test_a_corrupted_artifact_and_a_hang_are_told(build: Path, tmp_path: Path) -> None:
    whole = exported(build, "depthwise", "onnx", "fp32")
    torn = tmp_path / whole.path.name
    torn.write_bytes(whole.path.read_bytes()[:100])
    broken = replace(job(whole, "run"), artifacts={"it": torn})
    failure = run_job("emulated://cortex-a76", broken).results["it"]["failure"]
    assert failure["outcome"] == "load-failed"
    with pytest.raises(EdgekdError, match="after 0 s") as stop:
        run_job("emulated://cortex-a76", replace(job(whole, "run"), timeout_s=0.2))
    assert_five_parts(str(stop.value))


def test_what_is_not_set_up_says_how(
    build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = exported(build, "depthwise", "onnx", "fp32")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UnreachableError, match="edgekd devices setup emulated") as stop:
        run_job("emulated://cortex-a76", job(artifact, "run"))
    assert_five_parts(str(stop.value))


def test_a_setup_without_a_network_says_so_and_leaves_nothing_half_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    nowhere = tmp_path / "nowhere.list"
    nowhere.write_text(f"deb [trusted=yes] file:{tmp_path}/no-mirror stable main\n")
    with pytest.raises(UnreachableError, match="apt-get update failed") as stop:
        emulated.setup(quiet, sources=nowhere)
    assert_five_parts(str(stop.value))
    assert [path.name for path in userland.cache_folder().iterdir()] == ["lock"]


def test_a_setup_goes_on_where_it_stopped(
    device: userland.Userland, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ours = userland.cache_folder()
    shutil.copytree(device.root, ours / "root", symlinks=True)
    if device.qemu.libraries is not None:
        shutil.copytree(device.root.parent / "qemu", ours / "qemu", symlinks=True)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    result: list[str] = []
    with pytest.raises(UnreachableError, match="pip install") as stop:
        emulated.setup(result.append)
    assert_five_parts(str(stop.value))
    assert [line.partition(":")[0] for line in result] == ["Runtimes"]
    assert not list(ours.glob("site-*"))


def test_a_host_without_apt_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingPackageError, match="no apt-get nor") as stop:
        userland_setup.setup(quiet)
    assert_five_parts(str(stop.value))


def test_a_qemu_without_plugins_counts_nothing(device: userland.Userland) -> None:
    with pytest.raises(UnreachableError, match="was built without plugins") as stop:
        emulated.plugin(replace(device.qemu, plugins=False))
    assert_five_parts(str(stop.value))


def test_without_a_compiler_nothing_is_counted(
    device: userland.Userland, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnreachableError, match="no cc, gcc or clang") as stop:
        emulated.plugin(device.qemu)
    assert_five_parts(str(stop.value))


def test_a_recipe_is_judged_by_instructions(tmp_path: Path, edgekd_cli: Any) -> None:
    (tmp_path / "data.py").write_text(DATA)
    (tmp_path / "models.py").write_text(MODELS)
    document = tiny_recipe()
    document["quantize"]["schemes"] = ["fp32", "int8"]
    document["targets"] = [
        {
            "name": "raspberry-pi-4-litert",
            "device": "emulated://cortex-a72",
            "budget": {"instructions": 1_000_000},
        }
    ]
    path = tmp_path / "recipe.toml"
    path.write_text(tomli_w.dumps(document))
    result = edgekd_cli("run", path, "--out", tmp_path / "runs", "--json")
    assert result.code == 0, result.err
    rows = {row["scheme"]: row for row in result.json["rows"]}
    for row in rows.values():
        assert (row["evidence"], row["measurement"]) == ("emulated", None)
        assert 0 < row["instructions"] < 1_000_000
        assert row["outcome"] == "passed"
    counts = {scheme: row["instructions"] for scheme, row in rows.items()}
    for row in rows.values():
        assert set(row["core_instructions"]) == {"cortex-a76", "cortex-a72"}
        ours = row["core_instructions"]["cortex-a72"]
        assert ours == pytest.approx(row["instructions"], rel=0.001)
    again = edgekd_cli("run", path, "--out", tmp_path / "runs", "--json").json
    assert {row["scheme"]: row["instructions"] for row in again["rows"]} == counts
    limit = f"targets.0.budget.instructions={counts['fp32'] // 2}"
    over = edgekd_cli("run", path, "--out", tmp_path / "runs", "--set", limit, "--json")
    assert over.code == 8
    timed = "targets.0.budget.latency_p90_ms=5.0"
    open_ = edgekd_cli("run", path, "--out", tmp_path / "runs", "--set", timed, "--json")
    assert open_.code == 9
    assert "emulated" in open_.json["rows"][0]["detail"]


def test_without_a_board_candidates_have_instruction_counts_of_arm_cores(
    tmp_path: Path, edgekd_cli: Any
) -> None:
    """They are shown beside the host's latencies and do not replace them."""
    (tmp_path / "data.py").write_text(DATA)
    (tmp_path / "models.py").write_text(MODELS)
    document = tiny_recipe()
    document["quantize"]["schemes"] = ["fp32", "int8"]
    document["targets"] = [{"name": "raspberry-pi-5-litert"}]
    document["benchmark"] = {"protocol": "quick"}
    path = tmp_path / "recipe.toml"
    path.write_text(tomli_w.dumps(document))
    result = edgekd_cli("run", path, "--out", tmp_path / "runs", "--json")
    assert result.code == 0, result.err
    board = result.json["rows"]
    assert [row["scheme"] for row in board] == ["fp32", "int8"]
    for row in board:
        assert row["evidence"] == "host"
        assert row["instructions"] is None, "no budget of them, no choice by them"
        assert min(row["core_instructions"].values()) > 0
    plain, small = (row["core_instructions"] for row in board)
    note = next(note for note in board[1]["notes"] if "instructions" in note)
    for core in ("cortex-a76", "cortex-a72"):
        assert f"{small[core] / plain[core]:.2f}" in note
    assert note.endswith("counted on emulated cores, not a latency")
    report = (Path(result.json["run"]) / "report.html").read_text()
    assert "Instructions per inference" in report
