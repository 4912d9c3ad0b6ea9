"""The command line, as far as it needs no converter."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any

import pytest

import edgekd
from edgekd import cli
from edgekd.bundles import BUNDLES
from edgekd.cli import completion
from edgekd.formats import FORMATS
from edgekd.pipeline import run as pipeline
from edgekd.pipeline.stages import STAGES
from edgekd.tasks import TASKS
from tests.support.project import Project, assert_five_parts, tiny_recipe


def test_help_names_every_command(edgekd_cli: Any) -> None:
    said = edgekd_cli("--help")
    assert said.code == 0
    for command in ("run", "check", "export", "verify", "benchmark", "targets", "doctor", "schema",
                    "devices"):  # fmt: skip
        assert f"  {command}" in said.out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["rnu"], "did you mean 'run'?"),
        (["run"], "Missing argument"),
        (["run", "r.toml", "--untl", "export"], "--until"),
        (["benchmark", "m.onnx", "--threads", "0"], "--threads"),
        (["run", "none.toml"], "cannot be read"),
        (["run", "none.toml", "--until", "pack"], "There is no stage 'pack'"),
        (["devices", "setup", "phone"], "edgekd cannot set up the device 'phone'"),
        (["targets", "x86-cpu-onx"], "did you mean 'x86-cpu-onnx'?"),
        (["targets", "a", "b"], "unexpected extra argument"),
        (["targets", "--jsn"], "--jsn"),
        (["benchmark", "none.onnx"], "is not an artifact"),
        (["export", "m.py:net", "--format", "onxx", "--out", "o"], "There is no format 'onxx'"),
        (["export", "m.py:net", "--format", "onnx", "--scheme", "int9", "--out", "o"], "int9"),
        (["benchmark", "m.onnx", "--budget", "latency=1"], "is not a limit of a budget"),
    ],
)
def test_wrong_arguments_exit_2_with_five_parts(
    edgekd_cli: Any, args: list[str], message: str
) -> None:
    said = edgekd_cli(*args)
    assert said.code == 2
    assert message in said.err
    assert_five_parts(said.err)


def test_an_invalid_recipe_exits_2_with_all_faults(edgekd_cli: Any, project: Project) -> None:
    document = tiny_recipe()
    document["distill"]["epoch"] = 3
    document["targets"][0]["name"] = "x86"
    said = edgekd_cli("check", project.write(document))
    assert said.code == 2
    assert said.err.count("  fix:      ") == 2
    assert_five_parts(said.err)


def test_references_and_losses_are_checked_before_any_work(
    edgekd_cli: Any, project: Project
) -> None:
    document = tiny_recipe()
    document["student"]["load"] = "models.py:studnt"
    document["data"]["load"] = "dat.py:blobs"
    document["distill"]["losses"][1]["temperature"] = 0.0
    document["quantize"]["calibration"] = "none.toml"
    said = edgekd_cli("check", project.write(document))
    assert said.code == 2
    for message in (
        "did you mean 'student'?",
        "did you mean 'data.py'?",
        "temperature must be positive",
        "none.toml cannot be read",
    ):
        assert message in said.err


def test_json_is_one_document_even_if_a_command_fails_early(
    edgekd_cli: Any, project: Project
) -> None:
    document = tiny_recipe()
    document["name"] = "a b"
    said = edgekd_cli("run", project.write(document), "--json")
    assert said.json["exit_code"] == said.code == 2
    assert said.json["faults"][0]["at"].endswith(":name")


def test_a_target_without_a_supported_scheme_exits_3(edgekd_cli: Any, project: Project) -> None:
    document = {**tiny_recipe(), "quantize": {"schemes": ["palettized"]}}
    said = edgekd_cli("check", project.write(document))
    assert said.code == 3
    assert "x86-cpu-onnx supports none of the recipe's schemes" in said.err
    assert_five_parts(said.err)


def test_a_scheme_that_a_profile_refuses_is_reported_with_its_reason(
    edgekd_cli: Any, project: Project
) -> None:
    document = {**tiny_recipe(), "quantize": {"schemes": ["int8"]}}
    document["targets"] = [{"name": "x86-cpu-ncnn"}]
    said = edgekd_cli("check", project.write(document))
    assert said.code == 3
    assert "int8: x86-cpu-ncnn takes fp32 or fp16: ncnn quantizes by its own tools" in said.err
    assert_five_parts(said.err)


def test_a_missing_package_exits_4(
    edgekd_cli: Any, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekd.system.packages.find_spec", lambda name: None)  # noqa: ARG005
    said = edgekd_cli("check", project.recipe)
    assert said.code == 4
    assert 'pip install -c constraints.txt "edgekd[onnx]"' in said.err
    assert_five_parts(said.err)


def test_a_bug_exits_1_with_its_traceback(
    edgekd_cli: Any, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def buggy(*arguments: object, **options: object) -> None:  # noqa: ARG001
        raise AssertionError("never")

    monkeypatch.setattr(pipeline, "run", buggy)
    said = edgekd_cli("run", project.recipe)
    assert said.code == 1
    assert "Traceback" in said.err
    assert "AssertionError: never" in said.err
    assert_five_parts(said.err)


def test_ctrl_c_reports_how_to_continue(
    edgekd_cli: Any, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*arguments: object, **options: object) -> None:  # noqa: ARG001
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "run", stopped)
    said = edgekd_cli("run", project.recipe)
    assert said.code == 130
    assert "run the same command again to continue" in said.err


def test_check_shows_the_plan(edgekd_cli: Any, project: Project) -> None:
    document = tiny_recipe()
    document["quantize"]["schemes"] = ["fp32", "palettized"]
    document["targets"].append({"name": "raspberry-pi-5-litert", "required": False})
    said = edgekd_cli("check", project.write(document))
    assert said.code == 0
    assert "train -> distill -> quantize -> export -> verify -> benchmark -> choose" in said.out
    takes = "fp32, fp16, int8, int8-dynamic or int4-weights"
    assert f"palettized: x86-cpu-onnx takes {takes}" in said.out
    assert "this host, since no device is given" in said.out
    as_json = edgekd_cli("check", project.recipe, "--json").json
    assert [row["outcome"] for row in as_json["rows"]] == [None, "refused", None, "refused"]


def test_a_target_is_shown_with_facts_and_sources(edgekd_cli: Any) -> None:
    said = edgekd_cli("targets", "raspberry-pi-5-litert")
    assert "Cortex-A76" in said.out
    assert "source: " in said.out
    assert re.search(r"refuses .*palettized", said.out)
    assert edgekd_cli("targets", "--json").json[0]["name"]


def test_doctor_names_versions_and_fixes(edgekd_cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    said = edgekd_cli("doctor", "--json")
    assert {"python", "torch", "onnx", "openvino", "litert", "coreml", "ssh"} <= {
        finding["name"] for finding in said.json
    }
    monkeypatch.setattr("edgekd.system.packages.find_spec", lambda name: None)  # noqa: ARG005
    text = edgekd_cli("doctor").out
    assert 'fix: pip install -c constraints.txt "edgekd[litert]"' in text


def test_the_schema_is_json(edgekd_cli: Any) -> None:
    assert "targets" in edgekd_cli("schema").json["properties"]


def test_every_command_explains_itself_uncut(edgekd_cli: Any) -> None:
    listed = edgekd_cli("-h").out
    assert "..." not in listed.replace("[ARGS]...", "")
    for command in cli.COMMANDS:
        name = command.__name__
        shown = edgekd_cli(name, "-h")
        assert shown.code == 0
        assert shown.out == edgekd_cli("help", name).out == edgekd_cli(name, "--help").out
        described = shown.out.replace("artifacts...", "").replace("{artifacts}...", "")
        assert "..." not in described.replace("{runs}...", "").replace("runs...", "")
        first = (command.__doc__ or "").partition("\n\n")[0]
        assert first.endswith(".")
        assert " ".join(first.split()) in " ".join(listed.split())


@pytest.mark.parametrize("command", [command.__name__ for command in cli.COMMANDS])
def test_every_option_is_described_in_a_sentence(command: str, edgekd_cli: Any) -> None:
    shown = edgekd_cli(command, "-h").out
    text = re.sub(r"\s+\[(?:required|default:[^]]*|x>=[^]]*|0<=x<=1)\]", "", shown)
    options = re.split(r"\n  (?=-|\w[\w.]* <)", text.replace("\n\nOptions:", ""))[1:]
    assert options
    for option in options:
        assert option.strip().endswith("."), option


def test_the_version_is_printed(edgekd_cli: Any) -> None:
    said = edgekd_cli("--version")
    assert (said.code, said.out) == (0, f"edgekd {edgekd.__version__}\n")


def test_no_arguments_print_the_help_and_exit_2(edgekd_cli: Any) -> None:
    said = edgekd_cli()
    assert said.code == 2
    assert said.err.startswith("Usage: edgekd [OPTIONS] COMMAND")


@pytest.mark.parametrize("args", [["-v", "run", "none.toml"], ["run", "none.toml", "--verbose"]])
def test_verbose_prints_steps_with_their_time_and_the_traceback(
    edgekd_cli: Any, args: list[str]
) -> None:
    said = edgekd_cli(*args)
    assert said.code == 2
    assert re.match(r"\d\d:\d\d:\d\d load edgekd\n", said.err)
    assert "Traceback (most recent call last)" in said.err
    assert said.err.count("  fix:      ") == 1
    assert_five_parts(said.err[said.err.rindex("none.toml cannot be read") :])
    assert "Traceback" not in edgekd_cli("run", "none.toml").err


def test_help_and_completion_name_what_there_is() -> None:
    assert list(completion.STAGES) == list(STAGES)
    assert sorted(completion.formats()) == sorted(FORMATS)
    assert list(completion.KINDS) == list(BUNDLES)
    assert list(completion.TASKS) == list(TASKS)


def completed(*args: str, last: str) -> tuple[list[str], str]:
    """What bash completes `edgekd ARGS LAST` to, and the heavy packages that were loaded."""
    code = (
        "import sys, edgekd.cli\n"
        "sys.argv = ['edgekd']\n"
        "try: edgekd.cli.main()\n"
        "finally: print(*{'torch', 'numpy', 'rich'} & set(sys.modules), file=sys.stderr)"
    )
    words = " ".join(["edgekd", *args, last])
    environment = {"_EDGEKD_COMPLETE": "complete_bash", "COMP_WORDS": words,
                   "COMP_CWORD": str(1 + len(args))}  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False,
                          env={**os.environ, **environment})  # fmt: skip
    return done.stdout.split(), done.stderr.strip()


@pytest.mark.parametrize(
    ("args", "last", "expected"),
    [
        ([], "ex", ["explain", "export"]),
        (["run", "recipe.toml", "--until"], "ve", ["verify"]),
        (["export", "--format"], "o", ["onnx", "openvino"]),
        (["targets"], "iphone-15", ["iphone-15-coreml"]),
        (["help"], "sch", ["schema"]),
    ],
)
def test_the_shell_completes_names_without_loading_torch(
    args: list[str], last: str, expected: list[str]
) -> None:
    assert completed(*args, last=last) == (expected, "")


def test_the_completion_script_can_be_shown(edgekd_cli: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("typer.completion._get_shell_name", lambda: "bash")
    assert "_EDGEKD_COMPLETE=complete_bash" in edgekd_cli("--show-completion").out
