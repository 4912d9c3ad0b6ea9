"""Keywords of an earlier release work, with a warning."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from edgekd.system.deprecation import with_deprecated


@dataclass(frozen=True)
class Options:
    count: int = 1
    overwrite: bool = False


def test_a_former_keyword_sets_its_field_and_warns() -> None:
    with pytest.warns(DeprecationWarning, match=r"call takes count, overwrite in options"):
        options = with_deprecated(
            Options(),
            {"count": 3, "replace_it": True},
            function="call",
            renamed={"replace_it": "overwrite"},
        )
    assert options == Options(3, True)


def test_without_keywords_nothing_changes() -> None:
    assert with_deprecated(Options(2), {}, function="call") == Options(2)


def test_an_unknown_keyword_is_refused_as_python_refuses_it() -> None:
    with pytest.raises(TypeError, match=r"call\(\) got an unexpected keyword argument 'size'"):
        with_deprecated(Options(), {"size": 3}, function="call")
