"""Identifiers of the generated languages."""

from __future__ import annotations

import keyword
import re
from collections.abc import Collection, Iterable, Iterator

from edgekd.bundles.manifest import Manifest, Model
from edgekd.recipe.bundle import JAVA_WORDS

CLASSES = frozenset(
    """
    Any Array Boolean Bool Bundle ByteArrayOutputStream ByteBuffer ByteOrder Character Class CoreML
    Data Double Exception Float Foundation HashMap IOException InputStream InstrumentationRegistry
    Int Integer Interpreter Long MLDictionaryFeatureProvider MLFeatureValue MLModel
    MLModelConfiguration MLMultiArray MLMultiArrayDataType Map MessageDigest NSNumber
    NoSuchAlgorithmException Object OnnxJavaType OnnxTensor OrtEnvironment OrtSession Override
    Package PackageDescription Protocol Self String StringBuilder Swift System Tensor Test Type URL
    XCTest XCTestCase
    """.lower().split()
)
"""The classes that the generated code of Java and Swift uses, in lower case."""


def words(name: str) -> list[str]:
    """The parts of a name of letters, digits, '.', '_' and '-'."""
    return [part for part in re.split(r"[^A-Za-z0-9]+", name) if part]


def camel(name: str) -> str:
    """`keyword-spotter` as `KeywordSpotter`: no leading digit, no class that the code uses."""
    identifier = "".join(part[0].upper() + part[1:] for part in words(name))
    valid = identifier[:1].isalpha() and identifier.lower() not in CLASSES
    return identifier if valid else f"Model{identifier}"


def snake(name: str) -> str:
    """`keyword-spotter` as `keyword_spotter`, never with a leading digit or a reserved word."""
    identifier = "_".join(words(name)).lower()
    reserved = identifier in JAVA_WORDS or keyword.iskeyword(identifier)
    valid = identifier[:1].isalpha() and not reserved
    return identifier if valid else f"model_{identifier}"


def titled(manifest: Manifest, formats: Collection[str]) -> Iterator[tuple[str, Model]]:
    """The models of `formats`, each with its name in the app.

    The name is the bundle's, followed by the target's if there are several models. Names are unique
    even on a file system that ignores case.
    """
    models = [model for model in manifest.models if model.format in formats]
    if len(models) == 1:
        yield manifest.name, models[0]
        return
    taken: set[str] = set()
    for model in models:
        title = f"{manifest.name}-{model.target}"
        number = 1
        while snake(title) in taken or camel(title).lower() in taken:
            number += 1
            title = f"{manifest.name}-{model.target}-{number}"
        taken |= {snake(title), camel(title).lower()}
        yield title, model


def rows(entries: Iterable[str], indent: str = "    ") -> str:
    """`entries`, one per line, with commas between."""
    return ",\n".join(f"{indent}{entry}" for entry in entries)
