"""Every reader of foreign input, with a small budget; EDGEKD_FUZZ_EXAMPLES sets a larger one.

`tools/fuzz_inputs.py` reads as many inputs as it is asked to and counts the outcomes.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fuzz.check import fuzz
from tests.fuzz.readers import READERS

EXAMPLES = int(os.environ.get("EDGEKD_FUZZ_EXAMPLES", "30"))


@pytest.mark.parametrize("name", READERS)
def test_a_reader_returns_a_value_or_an_error_of_five_parts(name: str, tmp_path: Path) -> None:
    outcomes: list[str] = []
    # A small budget is the same inputs every time; a large one is new inputs.
    fixed = "EDGEKD_FUZZ_EXAMPLES" not in os.environ or "CI" in os.environ
    fuzz(READERS[name], tmp_path, EXAMPLES, derandomize=fixed, note=outcomes.append)
    assert len(outcomes) >= min(EXAMPLES, 10)
