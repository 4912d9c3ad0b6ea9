"""The options of edgekd.calibrate."""

from __future__ import annotations

from pathlib import Path

import pytest

import edgekd
from edgekd.pipeline.calibrate import CalibrationOptions


def test_the_former_keywords_of_calibrate_still_work_and_warn(tmp_path: Path) -> None:
    missing = tmp_path / "recipe.toml"
    with (
        pytest.warns(DeprecationWarning, match="CalibrationOptions"),
        pytest.raises(edgekd.EdgekdError),
    ):
        edgekd.calibrate(missing, count=4, replace_it=True)
    with pytest.raises(edgekd.EdgekdError):
        edgekd.calibrate(missing, CalibrationOptions(count=4, overwrite=True))


def test_an_unknown_option_of_calibrate_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="number"):
        edgekd.calibrate(tmp_path / "recipe.toml", number=4)
