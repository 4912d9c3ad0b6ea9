from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgekd.errors import MissingPackageError
from edgekd.system.packages import missing, need
from tests.support.project import assert_five_parts


def test_an_installed_module_is_returned() -> None:
    assert need("json", extra="onnx").dumps([]) == "[]"


def test_a_missing_package_names_its_extra() -> None:
    with pytest.raises(MissingPackageError) as caught:
        need("no_such_package.part", extra="onnx")
    fault = caught.value.faults[0]
    assert fault.what == "The package no_such_package is not installed."
    assert 'pip install -c constraints.txt "edgekd[onnx]"' in fault.fix


def test_an_import_error_inside_an_installed_package_is_raised_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half_installed.py").write_text("import something_it_needs")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="something_it_needs"):
        need("half_installed", extra="onnx")


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        ("operator torchvision::nms does not exist", "install torchvision"),
        ("libGL.so.1: cannot open shared object file", "--force-reinstall"),
    ],
)
def test_a_package_that_does_not_load_is_reported(
    error: str, fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "of_another_build.py").write_text(f"raise RuntimeError({error!r})")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MissingPackageError, match="is installed but does not load") as caught:
        need("of_another_build", extra="timm")
    assert_five_parts(str(caught.value))
    assert error in str(caught.value)
    assert fix in caught.value.faults[0].fix


def test_missing_is_found_without_importing() -> None:
    assert missing(("json",), extra="onnx") is None
    assert missing(("json", "no_such_package"), extra="onnx") is not None
    assert "antigravity" not in sys.modules
    assert missing(("antigravity",), extra="onnx") is None
    assert "antigravity" not in sys.modules
