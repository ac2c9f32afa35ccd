"""Patterns of names against Python's regular expressions, which PEFT runs."""

import random
import re
import time

import pytest

from step1x_jax.errors import UserError
from step1x_jax.weights.lora.name_patterns import NamePatterns

NAMES = [
    "proj_out", "x_embedder", "norm_out.linear", "transformer_blocks.0.attn.to_q",
    "transformer_blocks.1.attn.to_q", "transformer_blocks.11.attn.to_out.0",
    "transformer_blocks.1.ff.net.0.proj", "single_transformer_blocks.7.proj_out",
    "single_transformer_blocks.37.proj_mlp", "double_blocks.3.img_attn.qkv",
]  # fmt: skip
PATTERNS = [
    "proj_out", "^proj_out", "to_q", "attn.to_q", r"attn\.to_q",
    "^transformer_blocks.0.attn.to_q$", r"transformer_blocks\.\d+\.attn\.to_q",
    r"transformer_blocks\.\d\.attn.*", ".*attn.*", ".*to_(q|k|v)", "(proj_out|x_embedder)",
    "proj_out|to_q", r"^single_transformer_blocks\.[0-9]+\.p.*",
    r"transformer_blocks\.(0|11)\..*", "[^.]+", r".*\.(?:to_q|to_out\.0)$", "net.?0.proj",
    "blocks.0", r"transformer_blocks\.[13].*", "a*", "nothing", "^.*$", r"\w+\.linear", "to_.",
    "linear?", ".+?q",
]  # fmt: skip


def as_peft(pattern, name):
    return re.match(rf"(.*\.)?({pattern})$", name) is not None


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_matches_what_peft_matches(pattern):
    ours = NamePatterns({pattern: 3.0}, "x")
    for name in NAMES:
        assert (ours.get(name) == 3.0) == as_peft(pattern, name), name


def test_random_patterns_match_what_peft_matches():
    rng = random.Random(0)
    pieces = ["a", "b", ".", r"\.", "a*", "b+", "[ab]", ".*", "(a|b.)", "(a|)", "b?", r"\d", "a"]
    hits = 0
    for _ in range(3000):
        pattern = "".join(rng.choices(pieces, k=rng.randint(1, 6)))
        name = "".join(rng.choices("ab.1", k=rng.randint(1, 8)))
        found = NamePatterns({pattern: 1.0}, "x").get(name) is not None
        assert found == as_peft(pattern, name), (pattern, name)
        hits += found
    assert 300 < hits < 2700


def test_the_first_of_several_counts():
    patterns = NamePatterns({"to_q": 1.0, ".*to_q": 2.0, "attn.to_q": 3.0, "x.*": 4.0}, "x")
    assert patterns.get("blocks.attn.to_q") == 1.0
    patterns = NamePatterns({".*to_q": 2.0, "to_q": 1.0}, "x")
    assert patterns.get("blocks.attn.to_q") == 2.0
    assert patterns.get("y") is None


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$", "(a|a)*b", "a{3}", "(?=a)b", "(?i)a", r"a\b", r"(a)\1", "a**", "*a", "(a", "a)",
        "[a", "a^b", r"[\d]", "(" * 900 + ")" * 900, "(a|b|c|d|e|f)" * 5, "a" * 2000,
    ],
)  # fmt: skip
def test_what_is_not_read_is_named(pattern):
    with pytest.raises(UserError, match=r"rank_pattern of x: .*pattern") as error:
        NamePatterns({pattern: 1.0}, "rank_pattern of x")
    assert len(str(error.value)) < 300


def test_no_pattern_takes_long():
    """Supported repetitions for which a regular expression would try all combinations."""
    begin = time.process_time()
    patterns = NamePatterns({".*a" * 200 + "b": 1.0, "a*" * 400 + "b": 2.0}, "x")
    for _ in range(100):
        assert patterns.get("a" * 400 + ".") is None
    many = NamePatterns({f"blocks.{i}.attn": float(i) for i in range(200_000)}, "x")
    for i in range(2000):
        assert many.get(f"a.blocks.{i}.attn") == i
    assert time.process_time() - begin < 20
