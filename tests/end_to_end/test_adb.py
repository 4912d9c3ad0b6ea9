"""A phone over adb: Debian's real adb connects to a fake phone, whose shell is this host's."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import edgekd
from edgekd.devices.job import Job, run_job
from edgekd.devices.telemetry.phone import mask_of
from edgekd.devices.transport import reconnect
from edgekd.devices.vendor_tools import benchmark_model_job
from edgekd.errors import ConversionError, EdgekdError, RecipeError, RefusedError, UnreachableError
from tests.support.adbd import Phone
from tests.support.models import TRAPS
from tests.support.project import Project, assert_five_parts, tiny_recipe
from tests.support.skips import need_modules, need_program

pytestmark = pytest.mark.converter

Plug = Callable[..., tuple[Phone, str]]


@pytest.fixture
def plug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plug]:
    """Connects fake phones and returns their URLs; the test has its own adb server."""
    program = need_program("adb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(free.getsockname()[1]))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(reconnect, "WAIT_S", 0.1)
    phones: list[Phone] = []

    def connect(python: str = sys.executable, **options: object) -> tuple[Phone, str]:
        temporary = tmp_path / "phone"
        temporary.mkdir()
        phone = Phone(temporary, **options)  # type: ignore[arg-type]
        phones.append(phone)
        subprocess.run([program, "connect", f"127.0.0.1:{phone.port}"], check=True, timeout=60)
        wait = [program, "-s", f"127.0.0.1:{phone.port}", "wait-for-device"]
        subprocess.run(wait, check=True, timeout=60)
        return phone, f"adb://127.0.0.1:{phone.port}?python={python}"

    yield connect
    subprocess.run([program, "kill-server"], check=False, timeout=60)
    for phone in phones:
        phone.close()


@pytest.fixture
def job(tmp_path: Path) -> Job:
    need_modules("onnx", "onnxscript", "onnxruntime")
    trap = TRAPS["signal"]
    generator = torch.Generator().manual_seed(0)
    network = edgekd.load_network(trap.build(), example=trap.draw(1, generator))
    artifact = edgekd.export(network, format="onnx", out=tmp_path / "build")
    inputs = {name: value.numpy() for name, value in trap.draw(8, generator).items()}
    return Job(
        "run", "onnxruntime", {"it": artifact.path}, 1, {"it": 1}, inputs=inputs, timeout_s=120
    )


@pytest.mark.parametrize("shell_v2", [True, False])
def test_a_phone_runs_an_artifact_and_is_left_clean(plug: Plug, job: Job, shell_v2: bool) -> None:
    phone, url = plug(shell_v2=shell_v2)
    there, here = run_job(url, job), run_job("local", job)
    for name, value in here.outputs["it"].items():
        assert np.array_equal(there.outputs["it"][name], value)
    assert list(phone.temporary.iterdir()) == []
    # The only phone needs no serial.
    assert run_job(f"adb://?python={sys.executable}", job).results["it"]["failure"] is None


@pytest.mark.parametrize("shell_v2", [True, False])
def test_a_missing_python_is_reported_on_old_phones_too(
    plug: Plug, job: Job, shell_v2: bool
) -> None:
    phone, url = plug("/no/python", shell_v2=shell_v2)
    with pytest.raises(UnreachableError, match="a program '/no/python' there") as stop:
        run_job(url, job)
    assert_five_parts(str(stop.value))
    assert list(phone.temporary.iterdir()) == []


@pytest.mark.parametrize("shell_v2", [True, False])
def test_an_agents_own_error_is_reported(
    plug: Plug, job: Job, tmp_path: Path, shell_v2: bool
) -> None:
    failing = tmp_path / "failing"
    failing.write_text("#!/bin/sh\necho no memory for that >&2\nexit 7\n")
    failing.chmod(0o755)
    _, url = plug(str(failing), shell_v2=shell_v2)
    with pytest.raises(ConversionError, match="exit status 7: no memory for that") as stop:
        run_job(url, job)
    assert_five_parts(str(stop.value))


def test_a_file_damaged_in_transit_is_noticed(plug: Plug, job: Job) -> None:
    phone, url = plug(spoil=lambda path, data: data[:-1] if path.endswith(".onnx") else data)
    differs = r"it/model\.onnx differs from the file that was sent"
    with pytest.raises(UnreachableError, match=differs) as stop:
        run_job(url, job)
    assert_five_parts(str(stop.value))
    assert list(phone.temporary.iterdir()) == []


def test_a_full_phone_is_reported(plug: Plug, job: Job) -> None:
    def full(path: str, data: bytes) -> bytes:
        raise OSError(28, "No space left on device", path, len(data))

    _, url = plug(spoil=full)
    with pytest.raises(UnreachableError, match="No space left on device") as stop:
        run_job(url, job)
    assert_five_parts(str(stop.value))


def test_a_connection_that_is_cut_ends_in_time(plug: Plug, job: Job) -> None:
    _, url = plug(cut_after=2)
    with pytest.raises(EdgekdError) as stop:
        run_job(url, job)
    assert_five_parts(str(stop.value))


def test_a_missing_phone_and_an_invalid_serial_are_reported(plug: Plug, job: Job) -> None:
    plug()
    with pytest.raises(UnreachableError, match="device 'NOSUCH' not found") as stop:
        run_job("adb://NOSUCH", job)
    assert_five_parts(str(stop.value))
    with pytest.raises(edgekd.errors.RecipeError, match="the serial '-a'"):
        run_job("adb://-a", job)


def ended(number: int) -> bool:
    """Whether the process has ended, within a few seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def hanging(folder: Path) -> str:
    """A Python whose agent never ends."""
    path = folder / "hanging"
    hang = f"echo $$ > {folder}/number; exec sleep 100"
    path.write_text(
        f'#!/bin/sh\ncase "$1" in agent.py) {hang};; esac\nexec {sys.executable} "$@"\n'
    )
    path.chmod(0o755)
    return str(path)


def test_a_hang_ends_in_time_and_leaves_nothing_running(
    plug: Plug, job: Job, tmp_path: Path
) -> None:
    phone, url = plug(hanging(tmp_path))
    with pytest.raises(ConversionError, match="after 3 s"):
        run_job(url, replace(job, timeout_s=3.0))
    assert list(phone.temporary.iterdir()) == []
    assert ended(int((tmp_path / "number").read_text()))


OUTPUT = """\
echo "INFO: Created TensorFlow Lite XNNPACK delegate for CPU." >&2
echo "count=5 first=900 curr=410 min=400 max=900 avg=510.5 std=190" >&2
echo "count=50 first=405 curr=401 min=399 max=450 avg=404.25 std=7.5" >&2
echo "Inference timings in us: Init: 12500, First inference: 900, Warmup (avg): 510" >&2
"""


@pytest.mark.parametrize("shell_v2", [True, False])
def test_a_phone_without_python_runs_a_benchmark_model(
    plug: Plug, tmp_path: Path, shell_v2: bool
) -> None:
    program, model = tmp_path / "benchmark_model", tmp_path / "model.tflite"
    program.write_text(f'#!/bin/sh\n[ "$2" = "--num_threads=2" ] && [ -f model.tflite ]\n{OUTPUT}')
    model.write_bytes(b"TFL3")
    phone, url = plug(shell_v2=shell_v2)
    url = f"{url}&benchmark_model={program}&cores=1"
    run, _ = benchmark_model_job.run_benchmark_model(url, model, threads=2, timeout_s=60)
    assert (run.steady.count, run.steady.mean_us, run.init_us) == (50, 404.25, 12500)
    assert any("exec taskset 1 ./benchmark_model" in command for command in phone.commands)
    assert list(phone.temporary.iterdir()) == []
    program.write_text("#!/bin/sh\necho ERROR: Failed to load model\nexit 1\n")
    with pytest.raises(ConversionError, match="exit status 1: ERROR: Failed to load") as stop:
        benchmark_model_job.run_benchmark_model(url, model, threads=2, timeout_s=60)
    assert_five_parts(str(stop.value))
    program.unlink()
    with pytest.raises(UnreachableError, match="no file"):
        benchmark_model_job.run_benchmark_model(url, model, threads=2, timeout_s=60)


def test_a_lost_connection_is_retried_and_the_old_job_ended(
    plug: Plug, job: Job, tmp_path: Path
) -> None:
    once = tmp_path / "once"
    hang = f"echo $$ > {tmp_path}/number; exec sleep 100"
    once.write_text(
        f'#!/bin/sh\ncase "$1" in agent.py) [ -f {tmp_path}/number ] || {{ {hang}; }};; esac\n'
        f'exec {sys.executable} "$@"\n'
    )
    once.chmod(0o755)
    phone, url = plug(str(once), cut_when="agent.py")
    assert run_job(url, job).results["it"]["failure"] is None
    assert ended(int((tmp_path / "number").read_text())), "the phone did not hear of the cut"
    assert list(phone.temporary.iterdir()) == []


CLOCKS = {0: 1803000, 1: 1803000, 2: 1803000, 3: 1803000, 4: 2253000, 5: 2253000,
          6: 2802000, 7: 2802000}  # fmt: skip


@pytest.mark.parametrize(
    ("threads", "mask"), [(1, "c0"), (2, "c0"), (3, "f0"), (4, "f0"), (5, "ff"), (16, "ff")]
)
def test_big_cores_are_whole_clusters_from_the_fastest_down(threads: int, mask: str) -> None:
    assert mask_of(CLOCKS, threads) == mask  # A Pixel 6's: 4, 2 and 2 cores.


def test_a_phone_without_clocks_cannot_choose_big_cores(plug: Plug, job: Job) -> None:
    with pytest.raises(ValueError, match="cpuinfo_max_freq"):
        mask_of({}, 1)
    _, url = plug()
    with pytest.raises(RecipeError, match="cores = big or a mask") as stop:
        run_job(f"{url}&cores=fast", job)
    assert_five_parts(str(stop.value))


def says(phone: Phone, tmp_path: Path, name: str, text: str) -> None:
    """Install a program on the phone."""
    path = tmp_path / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    phone.env["PATH"] = f"{path.parent}{os.pathsep}{os.environ['PATH']}"


def tells(phone: Phone, tmp_path: Path, battery: str, statuses: list[int]) -> None:
    """Let the phone's dumpsys report a battery level, and thermal statuses one after another."""
    remaining = tmp_path / "statuses"
    remaining.write_text("".join(f"{status}\n" for status in statuses))
    heat = (
        f"s=$(head -n 1 {remaining}); [ $(wc -l < {remaining}) -gt 1 ] && sed -i 1d {remaining}\n"
        'echo "Thermal Status: $s"; echo "Current temperatures from HAL:"\n'
        'echo "\tTemperature{mValue=61.5, mType=3, mName=skin, mStatus=$s}"'
    )
    says(phone, tmp_path, "dumpsys", f'case "$1" in battery) echo "{battery}";; *) {heat};; esac')


def test_nothing_is_timed_on_a_low_battery_and_a_hot_phone_may_cool(
    plug: Plug, job: Job, tmp_path: Path
) -> None:
    options = {"runs": 20, "seconds": 0.0, "block": 20, "warm_up_s": 0.0, "warm_up_limit_s": 0.1,
               "limit_s": 5.0, "turn_s": 0.0, "seed": 0}  # fmt: skip
    timing = replace(job, action="time", options=options)
    phone, url = plug()
    tells(phone, tmp_path, "level: 20\n  AC powered: false", [0])
    with pytest.raises(UnreachableError, match="battery is at 20% and not charging") as stop:
        run_job(url, timing)
    assert_five_parts(str(stop.value))
    assert run_job(url, job).results["it"]["failure"] is None, "outputs need no charge"
    tells(phone, tmp_path, "level: 20\n  AC powered: true", [3, 2, 0])
    assert run_job(f"{url}&cool_s=20", timing).results["it"]["blocks_ns"]
    assert (tmp_path / "statuses").read_text() == "0\n", "it was asked until it had cooled"
    tells(phone, tmp_path, "level: 90\n  AC powered: false", [2])
    hot = r"thermal status 2 \(moderate\) after 1 s of waiting: skin is at 61.5 C"
    with pytest.raises(UnreachableError, match=hot) as stop:
        run_job(f"{url}&cool_s=1", timing)
    assert_five_parts(str(stop.value))
    assert list(phone.temporary.iterdir()) == []


def test_a_budget_is_judged_by_the_summary_of_benchmark_model(
    plug: Plug, tmp_path: Path, edgekd_cli: Any
) -> None:
    program, model = tmp_path / "benchmark_model", tmp_path / "model.tflite"
    steady = "avg=404.25 std=7.5 p5=400 median=403 p95=420"
    program.write_text(f"#!/bin/sh\n{OUTPUT.replace('avg=404.25 std=7.5', steady)}")
    model.write_bytes(b"TFL3")
    phone, url = plug()
    args = ["benchmark", model, "--device", f"{url}&benchmark_model={program}", "--json"]
    result = edgekd_cli(*args, "--budget", "latency_p90_ms=0.46")
    assert result.code == 0, result.err
    found = result.json[0]["measurement"]
    assert (found["process_count"], found["sample_count"]) == (3, 150)
    assert (found["p50_ms"], found["p90_ms"], found["max_ms"]) == (0.403, 0.42, 0.45)
    assert (found["init_ms"], found["first_ms"]) == (12.5, 0.9)
    assert found["samples_ns"] == []
    assert "reports no samples" in found["notes"][0]
    assert edgekd_cli(*args, "--budget", "latency_p90_ms=0.39").code == 8
    still = edgekd_cli(*args, "--budget", "latency_p90_ms=0.41")
    assert still.code == 9, "some 5 % to 50 % took longer"
    assert any("--num_runs=67" in each for each in phone.commands)
    assert list(phone.temporary.iterdir()) == []


def test_a_recipe_is_verified_here_and_timed_by_benchmark_model(
    plug: Plug, project: Project, edgekd_cli: Any
) -> None:
    need_modules("litert_torch", "ai_edge_litert")
    program = project.folder / "benchmark_model"
    program.write_text(f"#!/bin/sh\n{OUTPUT}")
    phone, url = plug()
    says(phone, project.folder, "uname", "echo aarch64")
    says(phone, project.folder, "getprop", "[ $1 = ro.soc.model ] && echo Tensor G3")
    document = tiny_recipe()
    document["targets"] = [
        {
            "name": "pixel-8-litert",
            "device": f"{url}&benchmark_model={program}",
            "budget": {"latency_p90_ms": 0.46},
        }
    ]
    project.write(document)
    result = edgekd_cli("run", project.recipe, "--out", project.folder / "runs", "--json")
    assert result.code == 0, result.err
    row = result.json["rows"][0]
    assert (row["outcome"], row["evidence"]) == ("passed", "host")
    assert (row["measurement"]["evidence"], row["measurement"]["p90_ms"]) == ("device", 0.45)
    assert row["measurement"]["device"]["processor"] == "Tensor G3"
    document["targets"][0]["device"] = f"{url}&benchmark_modle={program}"
    project.write(document)
    result = edgekd_cli("check", project.recipe)
    assert result.code == 2, "before any work"
    assert "?benchmark_model=PATH here" in result.err


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminated"])
def test_ctrl_c_leaves_nothing_running_on_the_phone(
    plug: Plug, job: Job, tmp_path: Path, how: signal.Signals
) -> None:
    phone, url = plug(hanging(tmp_path))
    program = (
        "import signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))\n"
        "from pathlib import Path\nfrom edgekd.devices.job import Job, run_job\n"
        f"path = Path({str(job.artifacts['it'])!r})\n"
        f"run_job({url!r}, Job('run', 'onnxruntime', {{'it': path}}, 1))\n"
    )
    host = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (tmp_path / "number").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    host.send_signal(how)
    host.wait(timeout=60)
    assert ended(int((tmp_path / "number").read_text()))
    assert list(phone.temporary.iterdir()) == []


def test_benchmark_model_cannot_return_outputs(plug: Plug, job: Job, tmp_path: Path) -> None:
    _, url = plug()
    with pytest.raises(RefusedError, match="benchmark_model can only time TFLite files") as stop:
        run_job(f"{url}&benchmark_model={tmp_path}/none", job)
    assert_five_parts(str(stop.value))


def test_a_missing_adb_is_reported(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ANDROID_HOME", "ANDROID_SDK_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnreachableError, match="no adb program") as stop:
        run_job("adb://", job)
    assert_five_parts(str(stop.value))
