"""Contextual examples: how people ask for edits, a bank for each category and language."""

import functools
import hashlib

import numpy as np
from etils import epath

import step1x_jax
from step1x_jax.curation.categories import Category
from step1x_jax.errors import UserError
from step1x_jax.json_files import build, parse_json

Bank = dict[Category, dict[str, tuple[str, ...]]]  # category -> language -> instructions
_FILE = epath.Path(step1x_jax.__file__).parent / "assets" / "curation" / "examples.json"


@functools.cache
def read_bank() -> Bank:
    """The bank that ships with the package: all categories, each in "en" and "cn"."""
    return build(Bank, parse_json(_FILE.read_bytes(), _FILE.name), _FILE.name)


def bank_digest() -> str:
    """Changes with the bank."""
    return hashlib.sha256(_FILE.read_bytes()).hexdigest()


def draw_examples(
    category: str, count: int, rng: np.random.Generator
) -> dict[str, tuple[str, ...]]:
    """So many different examples of a category in each language, in a random order.

    Raises:
      UserError: there is no such category, or it has fewer.
    """
    if category not in list(Category):
        raise UserError(f"{category!r} is no category; they are {', '.join(Category)}.")
    bank = read_bank()[Category(category)]
    if count > min(map(len, bank.values())):
        raise UserError(f"examples is {count}; {category} has {min(map(len, bank.values()))}.")
    return {
        language: tuple(texts[i] for i in rng.permutation(len(texts))[:count])
        for language, texts in sorted(bank.items())
    }
