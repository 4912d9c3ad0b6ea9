"""Conversions in processes of their own, with a format that crashes, hangs and raises."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

import edgekd
from edgekd.conversions import Conversion, convert_each
from edgekd.errors import ConversionError, EdgekdError, RecipeError
from edgekd.network import Network

FORMAT = """
import os, signal, time
SUFFIX, RUNTIME, EXTRA, PACKAGES, SPARSE = ".raw", "raw", "raw", (), ""
SCHEMES = dict.fromkeys(["fp32", "fp16", "int8", "int8-dynamic", "int8-weights"], "as it is")

def convert(network, scheme, calibration, path):
    print("working on", scheme)
    if scheme == "fp16":
        os.kill(os.getpid(), signal.SIGKILL)
    if scheme == "int8-weights":
        raise KeyError("no such operator")
    if scheme == "int8-dynamic":
        time.sleep(600)
    total = sum(float(sample["input"].sum()) for sample in calibration)
    outputs = network({name: tensor for name, tensor in network.example.items()})
    path.write_text(f"{total:.3f} {sorted(outputs)} {os.getpid()}")
    return "as it is"
"""


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A format `raw` of an installed package."""
    place = tmp_path / "site"
    entry = place / "raw_format-1.0.dist-info"
    entry.mkdir(parents=True)
    (place / "raw_format.py").write_text(FORMAT)
    (entry / "METADATA").write_text("Metadata-Version: 2.1\nName: raw-format\nVersion: 1.0\n")
    (entry / "entry_points.txt").write_text("[edgekd.formats]\nraw = raw_format\n")
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
    """What came of each scheme: what is in its file, or its error."""
    samples = [{"input": torch.full((1, 4), 0.5)}, {"input": torch.ones(1, 4)}]
    one = network()
    wanted = {name: Conversion(one, "raw", name, samples) for name in schemes}
    each = convert_each(wanted, processes=processes, timeout_s=timeout_s)
    return {
        name: found if isinstance(found, EdgekdError) else (found / "model.raw").read_text()
        for name, found in each
    }


@pytest.mark.usefixtures("raw")
def test_a_converter_that_is_killed_or_raises_takes_one_file_with_it() -> None:
    found = converted(["fp32", "fp16", "int8-weights", "int8"])
    first, last = str(found["fp32"]).split(), str(found["int8"]).split()
    assert first[:2] == last[:2] == ["6.000", "['output']"]  # It got the samples.
    assert first[2] != last[2] != str(os.getpid())  # After the kill there was another process.
    killed, raised = found["fp16"], found["int8-weights"]
    assert isinstance(killed, ConversionError)
    assert "SIGKILL" in killed.faults[0].got
    assert "memory" in killed.faults[0].got
    assert "working on fp16" in killed.faults[0].got
    assert isinstance(raised, ConversionError)
    assert "no such operator" in raised.faults[0].got


@pytest.mark.usefixtures("raw")
def test_a_converter_that_hangs_is_stopped() -> None:
    found = converted(["int8-dynamic"], timeout_s=1.0)["int8-dynamic"]
    assert isinstance(found, ConversionError)
    assert "still running after 1 s" in found.faults[0].got
    assert "timeout_s" in found.faults[0].fix


@pytest.mark.usefixtures("raw")
def test_without_processes_it_is_done_here() -> None:
    found = converted(["fp32", "int8-weights"], processes=0)
    assert str(found["fp32"]).endswith(str(os.getpid()))
    assert isinstance(found["int8-weights"], ConversionError)


@pytest.mark.usefixtures("raw")
def test_a_network_that_no_file_can_stand_for_starts_no_process() -> None:
    broken = nn.Linear(4, 2)
    with torch.no_grad():
        broken.weight[0, 0] = torch.nan
    wanted = {"a": Conversion(network(broken), "raw", "fp32")}
    ((name, found),) = convert_each(wanted, processes=1, timeout_s=1)
    assert name == "a"
    assert isinstance(found, RecipeError)
    assert "weight" in found.faults[0].at
