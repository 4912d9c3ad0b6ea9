from __future__ import annotations

import pytest

from edgekd.errors import ERRORS, EdgekdError, Fault, listed, nearest
from edgekd.evidence.outcome import Outcome

FAULT = Fault(
    "It cannot be done.", at="recipe.toml:name", got="3", expected="a string", fix="quote"
)


def test_a_message_has_five_parts_in_order() -> None:
    assert str(FAULT).splitlines() == [
        "It cannot be done.",
        "  at:       recipe.toml:name",
        "  got:      3",
        "  expected: a string",
        "  fix:      quote",
    ]


def test_a_message_lists_all_faults() -> None:
    text = str(EdgekdError(FAULT, FAULT))
    assert text.count("It cannot be done.") == 2


def test_an_error_without_a_fault_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one fault"):
        EdgekdError()


def test_there_is_one_class_per_exit_code() -> None:
    assert sorted(ERRORS) == list(range(1, 10))
    assert all(error.exit_code == code for code, error in ERRORS.items())


def test_every_outcome_except_passed_has_a_documented_exit_code() -> None:
    assert Outcome.PASSED.exit_code == 0
    assert all(o.exit_code in ERRORS for o in Outcome if o is not Outcome.PASSED)


def test_the_nearest_name_is_suggested_and_distant_names_are_not() -> None:
    assert nearest("epoch", ["epochs", "losses"]) == "epochs"
    assert nearest("zzz", ["epochs", "losses"]) is None
    assert listed(["a", "b", "c"]) == "a, b or c"


def test_a_phrase_of_no_names_is_nothing() -> None:
    assert [listed([]), listed(["a"]), listed(["a", "b"])] == ["nothing", "a", "a or b"]


def test_control_characters_of_a_message_are_printed_as_text() -> None:
    fault = Fault("x", at="a\x1b[2J", got="b\x9b\x07\r", expected="c\ud800", fix="d\n\te")
    assert "a\\x1b[2J" in str(fault)
    assert "b\\x9b\\x07\\r" in str(fault)
    assert "c\\ud800" in str(fault)
    assert "d\n\te" in str(fault)
