from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path

import pytest

from edgekd.artifacts.scheme import SCHEMES
from edgekd.artifacts.target import load_target, target_names
from edgekd.cli.result_text import target_lines
from edgekd.devices.emulation.userland import CORES
from edgekd.errors import RecipeError
from edgekd.formats import FORMATS

GOOD = 'format = "onnx"\nschemes = ["fp32"]\nmachine = "x86_64"\n'


@pytest.mark.parametrize("name", target_names())
def test_a_shipped_profile_is_valid_and_every_fact_has_a_source(name: str) -> None:
    target = load_target(name)
    assert target.name == name
    assert target.format in FORMATS
    assert target.facts
    assert all(fact.source and fact.date for fact in target.facts.values())


@pytest.mark.parametrize("name", target_names())
def test_a_profile_says_how_to_connect_and_what_comes_nearest(name: str) -> None:
    target = load_target(name)
    assert target.connection in ("local", "ssh", "adb", "none")
    assert (target.connection == "none") == name.startswith("iphone-")
    assert target.emulated is None or target.emulated in CORES
    told = list(target_lines(target, list(SCHEMES)))
    assert sum(line.startswith("  connect ") for line in told) >= 1


def test_the_boards_and_phones_of_the_readme_have_profiles() -> None:
    boards = {name.rpartition("-")[0] for name in target_names()}
    assert boards >= {"raspberry-pi-4", "raspberry-pi-5", "raspberry-pi-zero-2-w", "jetson-nano",
                      "jetson-orin-nano", "pixel-6", "pixel-8", "galaxy-s23", "galaxy-s24",
                      "iphone-13", "iphone-15", "x86-cpu", "arm64-server"}  # fmt: skip


def test_a_refusal_says_what_the_target_takes() -> None:
    target = load_target("x86-cpu-onnx")
    assert target.refusal("int8") is None
    takes = "fp32, fp16, int8, int8-dynamic or int4-weights"
    assert target.refusal("palettized") == f"x86-cpu-onnx takes {takes}"


def test_a_profile_may_say_why_it_refuses(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(GOOD + 'refuses = { int8 = "no int8 instructions" }')
    assert load_target("mine.toml", tmp_path).refusal("int8") == (
        "mine takes fp32: no int8 instructions"
    )


def test_this_host_is_no_device_of_another_machine(tmp_path: Path) -> None:
    assert load_target("raspberry-pi-5-litert").evidence == "host"
    (tmp_path / "other.toml").write_text(
        'format = "onnx"\nschemes = ["fp32"]\nmachine = "riscv64"\ndevice = "local"\n'
    )
    assert load_target("other.toml", tmp_path).evidence == "host"
    (tmp_path / "same.toml").write_text(
        f'format = "onnx"\nschemes = ["fp32"]\nmachine = "{platform.machine()}"\ndevice = "local"\n'
    )
    assert load_target("same.toml", tmp_path).evidence == "device"


def test_an_iphone_is_no_mac_and_its_figures_are_imported() -> None:
    iphone, mac = load_target("iphone-15-coreml"), load_target("apple-silicon-mac-coreml")
    by_ssh, by_hand = "ssh://me@mac.local", "imported://figures.json"
    assert replace(iphone, device=by_ssh).evidence_on("arm64") == "host"
    assert replace(mac, device=by_ssh).evidence_on("arm64") == "device"
    assert replace(iphone, device=by_hand).evidence_on("arm64") == "device"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "A target has no 'format'"),
        (GOOD + "thread = 3", "did you mean 'threads'?"),
        (GOOD + 'threads = "two"', "'threads' of a target has the wrong type"),
        (GOOD.replace('"fp32"', '"fp23"'), "did you mean 'fp32'?"),
        (GOOD + "threads = true", "'threads' of a target has the wrong type"),
        (GOOD + "threads = 0", "'threads' of a target has the wrong value"),
        (GOOD + "channel_multiple = -8", "'channel_multiple' of a target has the wrong value"),
        (GOOD + "opset = 99999", "'opset' of a target has the wrong value"),
        (GOOD + 'channels_last = "no"', "'channels_last' of a target has the wrong type"),
        (GOOD + 'accelerator = "dsp"', "cpu, gpu or npu"),
        (GOOD + 'connection = "usb"', "local, ssh, adb or none"),
        (GOOD + "refuses = { int8 = 3 }", "'refuses' of a target has the wrong type"),
        (GOOD.replace('["fp32"]', "[]"), "'schemes' of a target has the wrong value"),
        (GOOD.replace('["fp32"]', "[8]"), "'schemes' of a target has the wrong"),
        (GOOD.replace('["fp32"]', "[[]]"), "'schemes' of a target has the wrong"),
        (GOOD.replace('["fp32"]', '"fp32"'), "'schemes' of a target has the wrong type"),
        (GOOD + "[facts]\nsoc = { value = 1, source = 2 }", "has no source"),
        (GOOD + '[facts]\nsoc = { value = {}, source = "x" }', "has no source"),
        (GOOD + '[facts]\nsoc = { value = 1, source = "x", date = 1979-05-27 }', "no source"),
        (GOOD + "facts = 3", "'facts' of a target has the wrong type"),
        (GOOD + "[facts]\nsoc = 3", "has no source"),
        (GOOD + '[facts]\nsoc = { value = 1, source = "x", when = "y" }', "has no source"),
    ],
)
def test_a_wrong_profile_is_told(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_target("mine.toml", tmp_path)
    assert told in str(caught.value)


def test_an_unknown_target_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match="did you mean 'x86-cpu-onnx'"):
        load_target("x86-cpu-onx")
