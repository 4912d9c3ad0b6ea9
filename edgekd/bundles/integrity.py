"""Check that the files of a bundle match its manifest, without running any of them."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edgekd.bundles.archive import files_under
from edgekd.bundles.folder import SIGNATURE, SUMS, sums
from edgekd.bundles.manifest import MANIFEST, Manifest, Model, read_manifest
from edgekd.bundles.model_card import LABELS
from edgekd.errors import Fault, RecipeError, listed
from edgekd.system.files import path_digest


def whole(bundle: Path) -> Manifest:
    """The manifest of the folder `bundle`, after checking its integrity.

    Raises:
        RecipeError: a file does not match, or the manifest cannot be read; all faults are reported.
    """
    faults = integrity(bundle)
    if faults:
        raise RecipeError(*faults)
    return read_manifest(bundle)


def integrity(bundle: Path) -> list[Fault]:
    """The faults of the folder `bundle`: differences from its manifest.

    Raises:
        RecipeError: its manifest cannot be read.
    """
    irregular = [
        entry
        for entry in sorted(bundle.rglob("*"))
        if entry.is_symlink() or not (entry.is_file() or entry.is_dir())
    ]
    if irregular:  # No file of such a folder is read.
        return [_fault(entry, _kind(entry), "only files and folders") for entry in irregular]
    manifest = read_manifest(bundle)
    faults, files = [], files_under(bundle)
    known = [file for model in manifest.models for file in model.files]
    for file in (*known, *manifest.other_files):
        path = files.pop(file.path, None)
        if path is None:
            got = "no such file, or listed twice"
            faults.append(_fault(bundle / file.path, got, f"{file.size_bytes} bytes, once"))
        elif path.stat().st_size != file.size_bytes:
            got = f"{path.stat().st_size} bytes"
            faults.append(_fault(path, got, f"{file.size_bytes} bytes"))
        elif (sha256 := path_digest(path)) != file.sha256:
            faults.append(_fault(path, f"sha256 {sha256}", f"sha256 {file.sha256}"))
    for name in files:
        if name not in (MANIFEST, SUMS, SIGNATURE):
            faults.append(_fault(bundle / name, "a file that is not listed", "no such file"))
    faults += [
        _fault(bundle / MANIFEST, got, expected) for got, expected in _contradictions(manifest)
    ]
    if manifest.labels and LABELS not in {file.path for file in manifest.other_files}:
        faults.append(_fault(bundle / LABELS, "no such file", "the labels of the manifest"))
    if not faults and manifest.labels and _labels(bundle) != manifest.labels:
        faults.append(_fault(bundle / LABELS, "other labels", "those of the manifest"))
    named = re.fullmatch(r".+-([0-9]+\.[0-9]+\.[0-9]+)(\.zip)?", bundle.name)
    if named and named[1] != manifest.version:
        got = f"the folder of version {named[1]}"
        faults.append(_fault(bundle, got, f"{manifest.name}-{manifest.version}"))
    if not faults and (SUMS not in files or files[SUMS].read_bytes() != sums(bundle).encode()):
        faults.append(_fault(bundle / SUMS, "other checksums", "those of the bundle's files"))
    return faults


def _labels(bundle: Path) -> list[str]:
    return (bundle / LABELS).read_text(encoding="utf-8", errors="replace").split("\n")[:-1]


def _contradictions(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Contradictions between parts of the manifest: what they say, and the rule."""
    for target, count in Counter(model.target for model in manifest.models).items():
        if count > 1:
            yield f"{count} models of {target}", "one model per target"
    for model in manifest.models:
        for got, expected in (*_contradictions_of(model), *_golden_sizes(model, manifest)):
            yield f"{model.target}: {got}", expected


def _contradictions_of(model: Model) -> Iterator[tuple[str, str]]:
    home, paths = f"models/{model.target}/", [file.path for file in model.files]
    for path in paths:
        if not path.startswith(home):
            yield f"file {path}", f"a file in {home}"
    # A model is a file, or a folder such as a Core ML package.
    within = [path for path in paths if path.startswith(f"{model.entry}/")]
    if not model.entry.startswith(home) or not (within or model.entry in paths):
        yield f"entry {model.entry}", f"one of {listed(paths)}"
    size = sum(file.size_bytes for file in model.files)
    if size != model.size_bytes:
        yield f"size_bytes {model.size_bytes}", f"{size}, the sum of its files"
    vectors = {
        "inputs": model.golden.inputs,
        "outputs": {name: output.path for name, output in model.golden.outputs.items()},
    }
    for role, given in vectors.items():
        names = [tensor.name for tensor in getattr(model, role)]
        if sorted(names) != sorted(given):
            yield f"golden {role} {listed(given)}", listed(names)
        for path in given.values():
            if not path.startswith("golden/"):
                yield f"golden vector {path}", "a file in golden/"


def _golden_sizes(model: Model, manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Golden vectors that are not listed, or do not hold `count` tensors of their shape."""
    sizes = {file.path: file.size_bytes for file in manifest.other_files}
    vectors = dict(model.golden.inputs)
    vectors |= {name: output.path for name, output in model.golden.outputs.items()}
    for tensor in (*model.inputs, *model.outputs):
        path = vectors.get(tensor.name)
        if path is None:
            continue  # reported with the names
        if path not in sizes:
            yield f"golden vector {path}", "a file that the manifest lists in other_files"
            continue
        known = math.prod(size for size in tensor.shape[1:] if size is not None)
        sample_bytes = known * np.dtype(tensor.dtype).itemsize
        count, dynamic = model.golden.count, None in tensor.shape[1:]
        all_bytes = count * sample_bytes
        fits = sizes[path] % all_bytes == 0 if dynamic and all_bytes else sizes[path] == all_bytes
        if not fits:
            shape = [count, *("any" if size is None else size for size in tensor.shape[1:])]
            yield f"golden vector {path} of {sizes[path]} bytes", f"{tensor.dtype} of shape {shape}"


def _kind(entry: Path) -> str:
    return "a symbolic link" if entry.is_symlink() else "neither a file nor a folder"


def _fault(path: Path, got: str, expected: str) -> Fault:
    return Fault(
        what="The bundle does not match its manifest.",
        at=str(path),
        got=got,
        expected=expected,
        fix="get the bundle from its source again, or build it again: edgekd run RECIPE",
    )
