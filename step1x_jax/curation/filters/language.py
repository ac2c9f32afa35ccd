"""Whether the two instructions are in their languages, and quote the same."""

import collections
import re

from step1x_jax.curation.filters.pictures import CHINESE, ENGLISH, Row

# Unified ideographs with extension A, compatibility ideographs, and the planes beyond the first.
HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]")
# Straight, curly and corner quotation marks; an apostrophe is none.
QUOTED = re.compile(r'"([^"]*)"|“([^”]*)”|「([^」]*)」|『([^』]*)』')
LONGEST = 600  # characters of an instruction that a model writes


def check_languages(row: Row) -> str | None:
    """Why a row's instructions do not pass; None: they do.

    Chinese has Han characters, English has none outside of quotations, and what one quotes, the
    other quotes too.
    """
    english, chinese = row.get(ENGLISH) or "", row.get(CHINESE) or ""
    if not english.strip() or not chinese.strip():
        return "instruction_missing"
    if problem := check_english(english):
        return problem
    if not HAN.search(QUOTED.sub("", chinese)):
        return "chinese_has_no_han"
    if collections.Counter(quotations(english)) != collections.Counter(quotations(chinese)):
        return "quotations_differ"
    return None


def check_english(text: str) -> str | None:
    """Why a text does not pass as an English instruction; None: it does."""
    if not text.strip():
        return "instruction_missing"
    return "english_has_han" if HAN.search(QUOTED.sub("", text)) else None


def quotations(text: str) -> list[str]:
    """What a text quotes, in order."""
    return ["".join(groups) for groups in QUOTED.findall(text)]
