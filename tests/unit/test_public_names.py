"""What `import edgekd` offers: names, help, signatures and the names of the last version."""

from __future__ import annotations

import inspect
import pydoc
import subprocess
import sys

import pytest

import edgekd

PUBLIC = [name for name in dir(edgekd) if name != "__version__"]


def test_dir_lists_the_public_names_alone() -> None:
    assert {"run", "export", "losses", "Data", "PrunedNetwork", "embed_preprocessing"} < {*PUBLIC}
    assert not [name for name in PUBLIC if name.startswith("_")]
    assert "pipeline" not in PUBLIC


def test_help_is_one_screen_and_names_every_public_name() -> None:
    lines = pydoc.plain(pydoc.render_doc(edgekd)).splitlines()
    assert len(lines) < 60
    for name in PUBLIC:
        assert name in (edgekd.__doc__ or ""), name


@pytest.mark.parametrize("name", [name for name in PUBLIC if callable(getattr(edgekd, name))])
def test_a_signature_prints_as_it_is_written(name: str) -> None:
    public = getattr(edgekd, name)
    if inspect.isfunction(public):
        text = str(inspect.signature(public))
        assert "-> '" not in text
        assert ": '" not in text
        assert " at 0x" not in text
        assert "\n" not in text
        assert len(text) < 700


@pytest.mark.parametrize("name", edgekd.losses.LOSSES)
def test_a_loss_shows_the_shapes_of_its_tensors(name: str) -> None:
    text = str(inspect.signature(edgekd.losses.LOSSES[name]))
    assert "Float[Tensor, 'batch " in text
    assert '"' not in text


@pytest.mark.parametrize(
    ("old", "new"), [("folded", "embed_preprocessing"), ("sensitivity", "layer_sensitivity")]
)
def test_a_renamed_name_works_and_warns(old: str, new: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"edgekd.{old} is now edgekd.{new}"):
        assert getattr(edgekd, old) is getattr(edgekd, new)
    assert old not in dir(edgekd)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'edgekd' has no attribute 'exprt'"):
        edgekd.exprt  # noqa: B018


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, edgekd; dir(edgekd); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
