"""Conversions in processes of their own, with a format that crashes, hangs and raises."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

import edgekd
from edgekd.conversion import worker_pool as conversions
from edgekd.conversion.worker_pool import Conversion, convert_each
from edgekd.errors import ConversionError, EdgekdError, RecipeError
from edgekd.formats.options import ExportOptions
from edgekd.network.network import Network
from edgekd.system.machine import available_bytes
from tests.support.project import assert_five_parts

FORMAT = """
import ctypes, os, signal, time
from pathlib import Path
SUFFIX, RUNTIME, EXTRA, PACKAGES = ".raw", "raw", "raw", ()
SCHEMES = dict.fromkeys(["fp32", "fp16", "int8", "int8-dynamic", "int8-weights"], "as it is")
PLACE = Path(__file__).parent

def wait(done):
    limit = time.monotonic() + 300
    while not done():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.01)

def eat():
    held = []
    for _ in range(160):
        held.append(bytearray(os.urandom(1)) * 2**26)
        time.sleep(0.005)
    raise RuntimeError("ten gigabytes and nobody minded")

def convert(network, calibration, path, options):
    scheme = options.scheme
    print("working on", scheme)
    does = os.environ.get("RAW_" + scheme.replace("-", "_"), "")
    if does == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if does == "segfault":
        ctypes.string_at(0)
    if does == "raise":
        raise KeyError("no such operator")
    if does == "hang":
        time.sleep(600)
    if does == "eat":
        eat()
    if does == "eat once" and not (PLACE / "eater").exists():
        (PLACE / "eater").write_text(str(os.getpid()))
        eat()
    if does == "outlive":
        wait(lambda: (PLACE / "eater").exists() and (PLACE / "eater").read_text())
        eater = Path("/proc") / (PLACE / "eater").read_text()
        wait(lambda: not eater.exists())
    if does == "meet":
        (PLACE / __name__).touch()
        wait(lambda: all((PLACE / name).exists() for name in ("raw_format", "raw_second")))
    total = sum(float(sample["input"].sum()) for sample in calibration)
    outputs = network({name: tensor for name, tensor in network.example.items()})
    path.write_text(f"{total:.3f} {sorted(outputs)} {os.getpid()}")
    return "as it is"
"""


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two formats, `raw` and `raw2`, of an installed package."""
    place = tmp_path / "site"
    entry = place / "raw_format-1.0.dist-info"
    entry.mkdir(parents=True)
    for name in ("raw_format", "raw_second"):
        (place / f"{name}.py").write_text(FORMAT)
    (entry / "METADATA").write_text("Metadata-Version: 2.1\nName: raw-format\nVersion: 1.0\n")
    (entry / "entry_points.txt").write_text(
        "[edgekd.formats]\nraw = raw_format\nraw2 = raw_second\n"
    )
    before = os.environ.get("PYTHONPATH", "")
    package = Path(edgekd.__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(place), str(package), before]))
    monkeypatch.syspath_prepend(str(place))


def network(module: nn.Module | None = None) -> Network:
    torch.manual_seed(0)
    return edgekd.load_network(module or nn.Linear(4, 2), example=torch.zeros(1, 4))


def converted(
    schemes: list[str], *, processes: int | None = 1, timeout_s: float = 120.0
) -> dict[str, str | EdgekdError]:
    """What came of each scheme, "raw2:fp32" of the second format: what is in its file, or its
    error."""
    samples = [{"input": torch.full((1, 4), 0.5)}, {"input": torch.ones(1, 4)}]
    one = network()
    wanted = {}
    for name in schemes:
        format, _, scheme = name.rpartition(":")
        wanted[name] = Conversion(one, format or "raw", ExportOptions(scheme=scheme), samples)
    each = convert_each(wanted, processes=processes, timeout_s=timeout_s)
    return {
        name: found if isinstance(found, EdgekdError) else (found / "model.raw").read_text()
        for name, found in each
    }


def told(found: str | EdgekdError) -> str:
    """What a conversion that failed got."""
    assert isinstance(found, ConversionError), found
    assert_five_parts(str(found))
    return found.faults[0].got


def does(monkeypatch: pytest.MonkeyPatch, **deeds: str) -> None:
    """Has the converter do something else for these schemes."""
    for scheme, deed in deeds.items():
        monkeypatch.setenv(f"RAW_{scheme}", deed)


@pytest.mark.usefixtures("raw")
def test_a_converter_that_crashes_or_raises_takes_one_file_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    does(monkeypatch, fp16="segfault", int8_weights="raise")
    found = converted(["fp32", "fp16", "int8-weights", "int8"])
    first, last = str(found["fp32"]).split(), str(found["int8"]).split()
    assert first[:2] == last[:2] == ["6.000", "['output']"]  # It got the samples.
    assert first[2] != last[2] != str(os.getpid())  # After the crash there was another process.
    crashed = told(found["fp16"])
    assert "SIGSEGV, in string_at, " in crashed
    assert crashed.endswith("(it printed: working on fp16)")
    assert "no such operator" in told(found["int8-weights"])


@pytest.mark.usefixtures("raw")
def test_one_that_the_system_ends_for_its_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    does(monkeypatch, fp16="kill")
    got = told(converted(["fp16"])["fp16"])
    assert "SIGKILL, as the system does if memory runs out" in got
    assert "working on fp16" in got


@pytest.mark.usefixtures("raw")
def test_formats_have_a_process_each_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a process imports its converter once for all its files."""
    does(monkeypatch, fp32="meet")  # Each waits for the other to be there.
    found = converted(["fp32", "fp16", "int8", "raw2:fp32"], processes=2)
    assert not [each for each in found.values() if isinstance(each, EdgekdError)]
    processes = {name: str(text).split()[2] for name, text in found.items()}
    assert processes["fp32"] == processes["fp16"] == processes["int8"] != processes["raw2:fp32"]


@pytest.mark.usefixtures("raw")
def test_a_converter_that_eats_the_memory_is_ended_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(conversions, "RESERVE_BYTES", available_bytes() - 2**31)
    does(monkeypatch, fp16="eat")
    got = told(converted(["fp16"])["fp16"])
    assert "GiB, and the machine's memory ran out" in got


@pytest.mark.usefixtures("raw")
def test_what_was_ended_among_others_for_its_memory_is_tried_again_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(conversions, "RESERVE_BYTES", available_bytes() - 2**31)
    does(monkeypatch, fp16="eat once", int8="outlive")
    found = converted(["fp16", "raw2:int8"], processes=2)
    assert (tmp_path / "site" / "eater").read_text() != str(found["fp16"]).split()[2]
    assert not [each for each in found.values() if isinstance(each, EdgekdError)]


@pytest.mark.usefixtures("raw")
def test_a_converter_that_hangs_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    does(monkeypatch, int8_dynamic="hang")
    found = converted(["int8-dynamic"], timeout_s=1.0)["int8-dynamic"]
    assert "still running after 1 s" in told(found)
    assert isinstance(found, ConversionError)
    assert "timeout_s" in found.faults[0].fix


@pytest.mark.usefixtures("raw")
def test_without_processes_it_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    does(monkeypatch, int8_weights="raise")
    found = converted(["fp32", "int8-weights"], processes=0)
    assert str(found["fp32"]).endswith(str(os.getpid()))
    assert isinstance(found["int8-weights"], ConversionError)


@pytest.mark.usefixtures("raw")
def test_a_network_that_no_file_can_stand_for_starts_no_process() -> None:
    broken = nn.Linear(4, 2)
    with torch.no_grad():
        broken.weight[0, 0] = torch.nan
    wanted = {"a": Conversion(network(broken), "raw")}
    ((name, found),) = convert_each(wanted, processes=1, timeout_s=1)
    assert name == "a"
    assert isinstance(found, RecipeError)
    assert "weight" in found.faults[0].at
