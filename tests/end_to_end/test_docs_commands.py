"""The commands and the Python of README.md and docs/ work in a folder as the pages assume it.

Each runs as the page writes it, with the placeholders replaced by `STANDS_FOR`. `NOT_HERE` lists
the commands that cannot run here, with the reason or the test that runs them.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from safetensors.torch import save_file
from torch.utils.data import Subset

import edgekd
from edgekd.benchmarking.benchmark import benchmark as benchmark_stage
from edgekd.formats import FORMATS
from edgekd.recipe.benchmark import QUICK
from edgekd.system.toml import tomllib
from tests.support.docs_pages import HOME, PAGES, blocks, commands, lines, python_blocks, variants
from tests.support.skips import need_modules, need_program

pytestmark = pytest.mark.converter

STANDS_FOR = {
    # Longer placeholders come first, because NAME stands for several things.
    "targets NAME": "targets x86-cpu-onnx",
    "NAME-VERSION.zip": "sensor-0.1.0.zip",
    "NAME-1.0.0/models/T": "sensor-0.1.0/models/x86-cpu-litert",
    "NAME": "sensor",
    "MODEL": "app.py:net",
    "RECIPE": "recipe.toml",
    "ARTIFACT ...": "model.tflite --against app.py:net --samples s.npz",
    "ARTIFACT...": "model.tflite app/litert-fp16",
    "ARTIFACT": "app/litert-fp32",
    "RUN...": "runs/sensor/latest runs/sensor/latest",
    "RUN": "runs/sensor/latest",
    "OLD": "runs/sensor/latest",
    "NEW": "runs/sensor/latest",
    "NEW_FOLDER": "new",
    "FILE": "s.npz",
    "F": "s.npz",
    "init DIR": "init .",
    "DIR": "new",
    "A B": "A.tflite B.tflite",
    "COMMAND": "run",
    "KEY": "key.pem",
    "PUB": "pub.pem --check",
    # tests/end_to_end/test_ssh.py, test_adb.py and test_emulated.py reach the devices.
    "URL": "local",
    "ssh://pi@pi5.local": "local",
    '"adb://SERIAL?benchmark_model=benchmark_model&cores=big"': "local",
    "emulated://cortex-a76": "local",
}
"""The placeholders of the docs and what replaces them in the folder."""

ADDED = {
    "edgekd init": "--data data.py:signals --student models.py:student --target x86-cpu-onnx "
    "--force",  # A terminal asks for these.
    "edgekd benchmark": "--quick",
    "edgekd benchmark --junit": "A.tflite",
    "edgekd export MODEL --scheme": "--format onnx --example image=1x3x32x32 --calibration s.npz "
    "--out new",
    "edgekd bundle RUN --verify": "--sign key.pem",
}
"""Arguments added to commands that start so: the page leaves them out, a terminal would ask for
them, or they make the command fast."""

NOT_HERE = {
    "make *": ".ci/run has these",
    "pip install *": "from a package index; tests/unit/docs/test_docs.py knows their extras",
    "pip download *": "from a package index",
    "python tools/*": "minutes of an idle machine; tests/unit/tools/test_studies.py",
    "adb devices *": "a phone; tests/end_to_end/test_adb.py",
    "edgekd devices setup emulated": "hundreds of MB of Debian; tests/end_to_end/test_emulated.py",
    "edgekd devices setup ssh://*": "a board; tests/end_to_end/test_ssh_setup.py",
    "edgekd run examples/*": "minutes of training; tests/end_to_end/test_examples.py",
}
"""Commands that do not run here, with the reason or the test that runs them."""

SHORT = """
benchmark = { protocol = "quick" }
export = { processes = 0 }
"""
"""Prepended to the recipe of the quickstart, so that it takes seconds."""

QUICKSTART = HOME / "docs" / "quickstart.md"
INDEPENDENT = [page for page in PAGES if page != QUICKSTART]
"""The pages whose commands do not depend on each other."""

APP = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, stride=2)
        self.head = nn.Linear(8, 5)

    def forward(self, image):
        return self.head(self.body(image).relu().mean((2, 3)))


def net():
    torch.manual_seed(0)
    return Net()
"""


def recipe() -> dict[str, Any]:
    """The recipe of the sensor example, shortened."""
    document = tomllib.loads((HOME / "examples/sensor/recipe.toml").read_text())
    document["teacher"]["train"]["epochs"] = 2
    document["distill"] |= {"epochs": 2, "views": 1}
    document["quantize"] |= {"schemes": ["fp32", "int8"], "search": "first"}
    document["export"] = {"processes": 0}
    document["benchmark"] = {"protocol": "quick"}
    document["accept"] |= {"max_drop": 0.9, "min_agreement": 0.5}
    document["targets"] = document["targets"][:1] + document["targets"][2:3]
    document["bundle"]["kinds"] = ["folder", "linux"]
    document["bundle"]["android"] = {"group": "com.acme.models"}
    return document


def write_keys(folder: Path) -> None:
    """Writes a new pair of Ed25519 keys."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    pem, plain = form.Encoding.PEM, form.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(pem, form.PrivateFormat.PKCS8, plain))
    public = key.public_key().public_bytes(pem, form.PublicFormat.SubjectPublicKeyInfo)
    (folder / "pub.pem").write_bytes(public)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the docs assume it: a finished run, a network, its files and samples."""
    for name in ("onnx", "litert"):
        need_modules(*FORMATS[name].PACKAGES)
    need_modules("cryptography", "mnist1d", "torch_pruning", "vl_convert")
    from edgekd.bundles import pack as packing
    from edgekd.bundles import signing

    folder = tmp_path_factory.mktemp("docs")
    for name in ("data.py", "models.py"):
        shutil.copy(HOME / "examples/sensor" / name, folder)
    # Loaded from elsewhere, because modules in the run's folder would become part of the run.
    aside = tmp_path_factory.mktemp("app")
    (aside / "app.py").write_text(APP)
    (folder / "recipe.toml").write_text(tomli_w.dumps(recipe()))
    result = edgekd.run(folder / "recipe.toml", out=folder / "runs")
    assert result.passed
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(40, 3, 32, 32, generator=generator)
    signals = {"signal": torch.randn(200, 1, 40, generator=generator)}
    np.savez(folder / "s.npz", image=images.numpy())
    for name in ("samples", "x"):
        save_file(signals, folder / f"{name}.safetensors")
    app = edgekd.load_network(f"{aside}/app.py:net", example={"image": images[:1]})
    one = {"signal": signals["signal"][:1]}
    student = edgekd.load_network(f"{folder}/models.py:student", example=one)
    save_file(dict(student.module.state_dict()), folder / "w.safetensors")
    samples = [{"signal": one[None]} for one in signals["signal"]]
    for network, format, scheme, name in (
        (app, "litert", "fp32", "model.tflite"),
        (app, "litert", "fp16", None),
        (student, "litert", "fp32", "A.tflite"),
        (student, "litert", "int8", "B.tflite"),
        (student, "onnx", "fp32", "A.onnx"),
    ):
        out = folder / ("app" if network is app else "out")
        artifact = edgekd.export(
            network, format=format, scheme=scheme, calibration=samples, out=out
        )
        if name:
            shutil.copy(artifact.path, folder / name)
    shutil.copy(aside / "app.py", folder)
    write_keys(folder)
    latest = folder / "runs/sensor/latest"
    with packing.opened(latest) as bundle:
        signing.sign(bundle, folder / "key.pem")
    packed = packing.pack(latest, "archive", folder / "zip")
    shutil.copy(packed / "sensor-0.1.0.zip", folder)
    return folder


@pytest.fixture
def workplace(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder, which is the current one."""
    copy = tmp_path / "work"
    shutil.copytree(prepared, copy, symlinks=True)
    monkeypatch.chdir(copy)
    return copy


def arguments(command: str) -> list[str]:
    """The arguments of a command with replaced placeholders and added arguments."""
    added = [more for start, more in ADDED.items() if command.startswith(start)]
    for written, there in STANDS_FOR.items():
        command = re.sub(rf"(?<![\w.-]){re.escape(written)}(?!\w)", there, command)
    return shlex.split(" ".join([command, *added]))


def page_commands() -> list[Any]:
    """Each command once, even if it is on several pages."""
    pages: dict[str, Path] = {}
    for page in INDEPENDENT:
        for command in (command for whole in commands(page) for command in variants(whole)):
            if not any(fnmatch(command, pattern) for pattern in NOT_HERE):
                pages.setdefault(shlex.join(arguments(command)), page)
    return [
        pytest.param(page, command, id=f"{page.name}: {command}") for command, page in pages.items()
    ]


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize(("page", "command"), page_commands())
def test_a_command_of_a_page_succeeds_and_names_the_next_step(
    page: Path, command: str, edgekd_cli: Any
) -> None:
    args = shlex.split(command)
    assert args[0] == "edgekd", f"{page.name}: give a reason in NOT_HERE, or run it"
    if "android" in args:
        need_program("javac")
    said = edgekd_cli(*args[1:])
    assert said.code == 0, said.err
    if args[1] not in ("schema", "help"):
        assert said.out.splitlines()[-1].startswith("next: "), "it does not name the next step"


def test_every_command_that_does_not_run_here_is_in_the_docs_and_runs_elsewhere() -> None:
    written = [command for page in PAGES for command in commands(page)]
    for pattern, reason in NOT_HERE.items():
        assert any(fnmatch(command, pattern) for command in written), pattern
        for path in re.findall(r"[\w./]+\.py|\.ci/run", reason):
            assert (HOME / path).exists(), path
    for command in written:
        if command.startswith("python tools/"):
            script = HOME / command.split()[1]
            for option in re.findall(r"--[a-z-]+", command):
                assert option in script.read_text(), command
    extras = tomllib.loads((HOME / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for named in re.findall(r"edgekd\[([\w,]+)\]", "\n".join(written)):
        assert set(named.split(",")) <= set(extras)


@pytest.fixture
def names(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that the Python of the docs assumes: data, networks, samples."""
    monkeypatch.setitem(benchmark_stage.__kwdefaults__, "protocol", QUICK)
    from importlib import util

    def load(name: str) -> Any:
        spec = util.spec_from_file_location(f"docs_{name}", workplace / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    document = {**recipe(), "prune": {"keep": 0.8}}
    (workplace / "recipe.toml").write_text(tomli_w.dumps(document))
    whole = load("data").signals()
    few = [Subset(split, range(200)) for split in (whole.train, whole.validation, whole.test)]
    example = {"signal": whole.test[0][0][None]}
    return {
        "edgekd": edgekd,
        "train": few[0],
        "validation": few[1],
        "test": few[2],
        "night_mask": [number % 2 == 0 for number in range(200)],
        "data": edgekd.Data(*few),
        "teacher": edgekd.load_network(load("models").teacher(), example=example),
        "student": edgekd.load_network(load("models").student(), example=example),
        "config": edgekd.load_recipe("recipe.toml").distill,
        "student_logits": torch.zeros(4, 10),
        "teacher_logits": torch.ones(4, 10),
    }


def for_signals(names: dict[str, Any]) -> dict[str, Any]:
    samples = [{"signal": names["train"][number][0][None]} for number in range(128)]
    return {"network": names["student"], "samples": samples}


def for_images(_: dict[str, Any]) -> dict[str, Any]:
    namespace: dict[str, Any] = {}
    exec(APP, namespace)
    images = torch.from_numpy(np.load("s.npz")["image"])
    return {"module": namespace["net"](), "samples": [{"image": image[None]} for image in images]}


ASSUMED: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "README.md": for_images,
    "qat.md": for_signals,
}
"""The network and samples that the Python of a page assumes."""


@pytest.mark.parametrize(
    "page", [page for page in INDEPENDENT if python_blocks(page)], ids=lambda page: page.name
)
def test_the_python_of_a_page_runs(page: Path, names: dict[str, Any]) -> None:
    if page.name in ASSUMED:
        names |= ASSUMED[page.name](names)
    for number, block in enumerate(python_blocks(page)):
        exec(compile(block, f"{page.name}, block {number + 1}", "exec"), names)
    if page.name == "extending.md":
        logits = names["teacher_logits"]
        assert names["my_loss"](logits, logits) == 0
        assert names["my_loss"](names["student_logits"], logits, power=1.0) == 1
    if page.name in ASSUMED:
        assert names["artifact"].path.exists()


def test_the_quickstart_works_from_top_to_bottom(
    tmp_path: Path, edgekd_cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_modules("torch_pruning", "vl_convert", *FORMATS["onnx"].PACKAGES)
    monkeypatch.setitem(benchmark_stage.__kwdefaults__, "protocol", QUICK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in ("data", "models"):  # Forget modules of other tests with these names.
        monkeypatch.setitem(sys.modules, module, None)
        del sys.modules[module]
    names: dict[str, Any] = {}
    for language, block in blocks(QUICKSTART):
        if language == "python" and block.startswith("# "):
            (tmp_path / block.splitlines()[0].removeprefix("# ")).write_text(block)
        elif language == "python":
            assert len(block.splitlines()) <= 10, "each stage alone takes ten lines"
            exec(compile(block, QUICKSTART.name, "exec"), names)
        for line in [] if language else lines(block):
            if any(fnmatch(line, pattern) for pattern in NOT_HERE):
                continue
            args = shlex.split(line)
            said = edgekd_cli(*args[1:])
            assert said.code == 0, f"{line}\n{said.err}"
            assert said.out.splitlines()[-1].startswith("next: ")
        recipe = tmp_path / "recipe.toml"
        if recipe.exists() and SHORT not in recipe.read_text():
            assert len(recipe.read_text().splitlines()) < 25
            recipe.write_text(SHORT + recipe.read_text())
    assert names["result"].passed
    assert names["agreement"].sqnr_db > 20
    assert names["agreement"].top1_agreement_frac > 0.95
    assert names["measured"].quick
