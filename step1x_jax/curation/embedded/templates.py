"""Template instructions: one of several wordings in each language, filled with an edit's slots.

They are marked as what they are: `TemplateInstruction.templates` names the wordings, and a
filter caps the share of each (filters/template_share.py).
"""

import string
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from step1x_jax.curation.categories import Category
from step1x_jax.curation.embedded.template_texts import TEMPLATES
from step1x_jax.curation.embedded.types import Words

LANGUAGES = ("en", "cn")


class TemplateInstruction(NamedTuple):
    """An instruction in both languages.

    Attributes:
      en: English.
      cn: Chinese.
      templates: name of the wording by language ("subject-add/add/en/3").
    """

    en: str
    cn: str
    templates: Words


def write_instruction(
    category: Category,
    facts: Mapping[str, str | float],
    slots: Mapping[str, Words],
    rng: np.random.Generator,
) -> TemplateInstruction:
    """An edit's instruction; the wordings of the two languages are drawn apart.

    Args:
      category: of the edit.
      facts: of the edit; "action" is read.
      slots: of the edit.
      rng: of the choice.
    """
    action = str(facts["action"])
    texts, names = {}, {}
    for language in LANGUAGES:
        wordings = TEMPLATES[category, action][language]
        number = int(rng.integers(len(wordings)))
        names[language] = f"{category.value}/{action}/{language}/{number}"
        filled = wordings[number].format_map({k: words[language] for k, words in slots.items()})
        texts[language] = _tidy(filled)
    return TemplateInstruction(texts["en"], texts["cn"], names)


def slots_of(template: str) -> set[str]:
    """Names of the slots that a template has."""
    return {name for _, name, _, _ in string.Formatter().parse(template) if name}


def _tidy(text: str) -> str:
    """A sentence begins with a capital letter, whatever slot begins it."""
    return text[:1].upper() + text[1:]
