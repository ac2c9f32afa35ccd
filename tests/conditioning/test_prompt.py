"""The published prompt: exactly the recorded one with Qwen's vocabulary, and the rule with any."""

import base64
import functools
import importlib.util
import itertools
import json
from pathlib import Path

import pytest
import regex

from step1x_jax.conditioning import prompt
from step1x_jax.conditioning.prompt import Prompt, published_pieces, word_pieces
from step1x_jax.conditioning.tokenizer import load_tokenizer
from step1x_jax.errors import UserError
from tests.conditioning.small_qwen import QWEN_PATTERN, small_tokenizer

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "prompts.json").read_text())
CASES = [pytest.param(case, id=case["instruction"][:20]) for case in GOLDEN["cases"]]


def test_texts_are_the_published_ones():
    assert GOLDEN["prefix"] == prompt.PREFIX
    assert GOLDEN["chat_before_image"] == prompt.CHAT_BEFORE_IMAGE
    assert GOLDEN["chat_after_instruction"] == prompt.CHAT_AFTER_INSTRUCTION


def test_prefix_quotes_lie_where_the_release_spares_them():
    """The release toggles at quotes beyond character 155; those we never see are not among them."""
    quotes = [i for i, char in enumerate(prompt.CHAT_BEFORE_IMAGE) if char in "\"'“”"]
    assert max(quotes) <= 155


@pytest.mark.parametrize("case", CASES)
def test_pieces_are_the_published_ones(case):
    text = "<|vision_end|>" + case["instruction"] + prompt.CHAT_AFTER_INSTRUCTION
    assert published_pieces(text) == case["pieces_after_image"]


def _qwen_tokenizer():
    """Qwen's own vocabulary, which the package dashscope carries; None without it."""
    spec = importlib.util.find_spec("dashscope")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "resources" / "qwen.tiktoken"
    lines = [line.split() for line in path.read_bytes().splitlines() if line]
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    special = GOLDEN["special_tokens"]
    special_pattern = "|".join(regex.escape(token) for token in special)

    @functools.cache
    def word_ids(word: str) -> list[int]:
        parts = [bytes([byte]) for byte in word.encode()]
        while len(parts) > 1:  # merge the pair that the vocabulary ranks first, again and again
            pairs = [a + b for a, b in itertools.pairwise(parts)]
            best = min(range(len(pairs)), key=lambda i: ranks.get(pairs[i], len(ranks)))
            if pairs[best] not in ranks:
                break
            parts[best : best + 2] = [pairs[best]]
        return [ranks[part] for part in parts]

    def tokenize(text: str) -> list[int]:
        ids = []
        for part in regex.split(f"({special_pattern})", text):
            if part in special:
                ids.append(special[part])
            else:
                ids += [i for word in regex.findall(QWEN_PATTERN, part) for i in word_ids(word)]
        return ids

    return tokenize


@pytest.fixture(scope="module")
def qwen() -> Prompt:
    tokenize = _qwen_tokenizer()
    if tokenize is None:
        pytest.skip("Qwen's vocabulary is not here: pip install --no-deps dashscope")
    return Prompt(tokenize)


@pytest.fixture(scope="module")
def qwen_labelled(qwen) -> Prompt:
    return Prompt(qwen._tokenize, picture_label=True)


def test_ids_before_the_picture_equal_the_published_ones(qwen, qwen_labelled):
    """As recorded with the label; without it, what lies between colon and <|vision_start|> goes."""
    recorded = GOLDEN["ids_before_image"]
    assert qwen.dropped == qwen_labelled.dropped == GOLDEN["dropped_positions"] == 217
    assert qwen_labelled.ids("", 0)[: len(recorded)] == recorded
    assert len(recorded[218:-1]) == 5  # "Picture", " ", "1", ":", " "
    plain = [*recorded[:218], recorded[-1]]
    assert qwen.ids("", 0)[: len(plain) + 1] == [*plain, GOLDEN["special_tokens"]["<|vision_end|>"]]


@pytest.mark.parametrize("case", CASES)
def test_ids_equal_the_published_ones(qwen, case):
    assert qwen.ids_from_vision_end(case["instruction"]) == case["ids_from_vision_end"]


@pytest.fixture(scope="module")
def small() -> tuple[Prompt, object]:
    tokenizer = small_tokenizer()
    return Prompt(lambda text: tokenizer.encode(text, add_special_tokens=False).ids), tokenizer


def test_a_prompt_is_prefix_picture_and_instruction(small):
    built, tokenizer = small
    ids = built.ids("add a hat", image_tokens=5)
    text = tokenizer.decode(ids, skip_special_tokens=False)
    after = "<|vision_end|>add a hat" + prompt.CHAT_AFTER_INSTRUCTION
    before = GOLDEN["chat_before_image"]
    assert text == before.replace("Picture 1: ", "") + "<|image_pad|>" * 5 + after
    labelled = Prompt(built._tokenize, picture_label=True).ids("add a hat", image_tokens=5)
    assert tokenizer.decode(labelled, skip_special_tokens=False) == (
        before + "<|image_pad|>" * 5 + after
    )
    assert ids.count(built.image_id) == 5


def test_dropped_positions_end_before_the_prefix_colon(small):
    built, tokenizer = small
    ids = built.ids("", 0)
    kept = tokenizer.decode(ids[built.dropped :], skip_special_tokens=False)
    assert kept.startswith(":<|vision_start|>")
    labelled = Prompt(built._tokenize, picture_label=True)
    assert labelled.dropped == built.dropped
    kept = tokenizer.decode(labelled.ids("", 0)[built.dropped :], skip_special_tokens=False)
    assert kept.startswith(":Picture 1: <|vision_start|>")


def test_quoted_text_is_spelled_out_with_any_vocabulary(small):
    built, tokenizer = small
    spelled = built.ids_from_vision_end('write "the"')
    plain = tokenizer.encode("the").ids
    letters = [i for letter in "the" for i in tokenizer.encode(letter).ids]
    assert len(plain) < len(letters) == 3  # the vocabulary has a merge to be avoided
    start = spelled.index(letters[0], len(tokenizer.encode('<|vision_end|>write "').ids))
    assert spelled[start : start + 3] == letters


@pytest.mark.parametrize(
    ("instruction", "pieces"),
    [
        ("the girl's dress", ["the girl's dress"]),
        ("don’t move", ["don’t move"]),
        ('say "it\'s"', ['say "', "“i”", "“t”", "“'”", "“s”", '"']),
        ("write 'no' here", ['write "', "“n”", "“o”", '" here']),
        ("", []),
    ],
)
def test_an_apostrophe_inside_a_word_opens_nothing(instruction, pieces):
    assert word_pieces(instruction) == pieces


def test_both_rules_agree_where_nothing_is_quoted(small):
    built, tokenizer = small
    words = Prompt(lambda t: tokenizer.encode(t, add_special_tokens=False).ids, "words")
    assert words.ids("add a hat", 3) == built.ids("add a hat", 3)
    assert words.ids("the girl's hat", 3) != built.ids("the girl's hat", 3)
    end = prompt.CHAT_AFTER_INSTRUCTION
    for instruction in ("the girl's hat", 'an open " quote'):
        assert tokenizer.decode(words.ids(instruction, 0), skip_special_tokens=False).endswith(end)


def test_an_empty_instruction_is_legal(small):
    built, tokenizer = small
    wanted = "<|vision_end|>" + prompt.CHAT_AFTER_INSTRUCTION
    assert tokenizer.decode(built.ids_from_vision_end(""), skip_special_tokens=False) == wanted


@pytest.mark.parametrize("token", ["<|image_pad|>", "<|video_pad|>"])
def test_placeholders_of_pictures_are_refused_unless_they_are_spelled_out(small, token):
    built, _ = small
    with pytest.raises(UserError, match="placeholder of pictures"):
        built.ids(f"a {token} b", image_tokens=3)
    assert built.ids(f'write "{token}"', image_tokens=3).count(built.image_id) == 3


def test_half_a_character_is_refused(small):
    built, _ = small
    with pytest.raises(UserError, match="not valid Unicode"):
        built.ids("half \ud83d", 1)


def test_a_tokenizer_file_is_read_and_checked(tmp_path, small):
    with pytest.raises(UserError, match="does not exist"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"half":')
    with pytest.raises(UserError, match="not a readable tokenizer"):
        load_tokenizer(tmp_path)
    small[1].save(str(tmp_path / "tokenizer.json"))
    assert Prompt(load_tokenizer(tmp_path)).ids("x'y", 2) == small[0].ids("x'y", 2)


def test_a_vocabulary_without_special_tokens_is_refused():
    with pytest.raises(UserError, match="special token"):
        Prompt(lambda text: list(text.encode()))
