"""Templates need no extra, but this folder's tests share their fixtures' needs."""

import collections

import numpy as np
import pytest

pytest.importorskip("cv2", reason="needs the extra [curation]")

from step1x_jax.curation.categories import Category
from step1x_jax.curation.embedded import words
from step1x_jax.curation.embedded.human import ACTIONS as RETOUCHES
from step1x_jax.curation.embedded.plain_texts import PLAIN_TEMPLATES
from step1x_jax.curation.embedded.template_texts import TEMPLATES
from step1x_jax.curation.embedded.templates import slots_of, write_instruction
from step1x_jax.curation.embedded.text import ACTIONS as TEXT_ACTIONS
from step1x_jax.curation.embedded.tone import FOG, TONES
from step1x_jax.curation.filters.language import HAN, check_languages
from step1x_jax.curation.filters.template_share import MOST_SHARE, find_excess

pytestmark = pytest.mark.curation
NEEDED = {
    (Category.SUBJECT_ADD, "add"): {"a", "where"},
    (Category.SUBJECT_REMOVE, "remove"): {"the"},
    (Category.SUBJECT_REPLACE, "replace"): {"the", "a"},
    (Category.MOTION_CHANGE, "move"): {"the", "direction"},
    (Category.BACKGROUND_CHANGE, "change"): {"new"},
    (Category.COLOR_ALTER, "recolour"): {"the", "new"},
    (Category.MATERIAL_ALTER, "cover"): {"the", "new"},
    (Category.TEXT_CHANGE, "add"): {"text", "where", "colour"},
    (Category.TEXT_CHANGE, "remove"): {"text"},
    (Category.TEXT_CHANGE, "replace"): {"text", "new"},
    (Category.TEXT_CHANGE, "recolour"): {"text", "new"},
    (Category.STYLE_CHANGE, "to_style"): {"style"},
    (Category.PS_HUMAN, "lipstick"): {"colour"},
    (Category.PS_HUMAN, "hair"): {"colour"},
}


@pytest.mark.parametrize(
    "key",
    [key for key in TEMPLATES if key not in PLAIN_TEMPLATES],  # for those: test_plain.py
    ids=lambda key: f"{key[0]}-{key[1]}",
)
def test_both_languages_have_as_many_wordings_and_their_script(key):
    templates = TEMPLATES[key]
    assert set(templates) == {"en", "cn"}
    assert len(templates["en"]) == len(templates["cn"]) >= 5
    for language, wordings in templates.items():
        assert len(set(wordings)) == len(wordings)
        for wording in wordings:
            assert bool(HAN.search(wording)) == (language == "cn"), wording
    # Every wording says what is wanted, however short it is.
    for wordings in templates.values():
        assert all(NEEDED.get(key, set()) <= slots_of(w) for w in wordings)


def test_every_action_of_every_maker_has_templates():
    actions = {(Category.PS_HUMAN, action) for action in RETOUCHES}
    actions |= {(Category.TEXT_CHANGE, action) for action in TEXT_ACTIONS}
    for name, direction in [*((n, t.direction) for n, t in TONES.items()), (FOG, "both")]:
        if direction in ("there", "both"):
            actions.add((Category.TONE_TRANSFER, name))
        if direction in ("back", "both"):
            actions.add((Category.TONE_TRANSFER, f"un_{name}"))
    mine = {Category.PS_HUMAN, Category.TEXT_CHANGE, Category.TONE_TRANSFER}
    actions |= {key for key in PLAIN_TEMPLATES if key[0] in mine}
    assert {key for key in TEMPLATES if key[0] in mine} == actions
    assert {category for category, _ in TEMPLATES} == set(Category)


TEXT = {
    "text": words.quoted("OPEN"),
    "new": words.quoted("No. 7"),
    "where": words.place({"en": "on the wall", "cn": "墙上"}, words.position(1, 1, 9, 9)),
    "colour": {"en": "white", "cn": "白色"},
}


def write(seed, action="replace", slots=TEXT):
    rng = np.random.default_rng(seed)
    return write_instruction(Category.TEXT_CHANGE, {"action": action}, slots, rng)


def test_quoted_texts_are_the_same_in_both_languages():
    for seed in range(40):
        instruction = write(seed)
        row = {"instruction_en": instruction.en, "instruction_cn": instruction.cn}
        assert check_languages(row) is None
        assert '"OPEN"' in instruction.en
        assert "“No. 7”" in instruction.cn
        assert "{" not in instruction.en + instruction.cn


def test_the_wording_is_drawn_and_named():
    assert write(3) == write(3)
    counts = collections.Counter(write(seed).templates["en"] for seed in range(600))
    assert len(counts) == 6
    assert max(counts.values()) < 600 * MOST_SHARE
    assert all(name.startswith("text_change/replace/en/") for name in counts)
    rows = [{"id": str(s), "template": write(s).templates["cn"]} for s in range(600)]
    assert find_excess(rows) == set()


def test_places_and_directions_in_words():
    at = [words.position(x, y, 90, 60)["en"] for y in (5, 30, 55) for x in (10, 45, 80)]
    assert at == [
        "in the upper left", "at the top", "in the upper right",
        "on the left", "in the middle", "on the right",
        "in the lower left", "at the bottom", "in the lower right",
    ]  # fmt: skip
    chinese = [words.position(x, y, 90, 60)["cn"] for y in (5, 30, 55) for x in (10, 45, 80)]
    assert chinese == [
        "左上方",
        "上方",
        "右上方",
        "左侧",
        "中间",
        "右侧",
        "左下方",
        "下方",
        "右下方",
    ]
    assert words.position(90, 60, 90, 60)["en"] == "in the lower right"  # the very edge
    moves = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
    assert [words.direction(*m)["en"] for m in moves] == [
        "to the right", "down and to the right", "down", "down and to the left",
        "to the left", "up and to the left", "up", "up and to the right",
    ]  # fmt: skip
    assert words.direction(10, 3) == words.direction(1, 0)
    assert words.side(80, 90)["cn"] == "右侧"
