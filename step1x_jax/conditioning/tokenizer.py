"""Qwen's tokenizer from its file, of which only what Qwen2.5-VL's can say is believed."""

from collections.abc import Callable, Iterator
from typing import Any

import tokenizers
from etils import epath

from step1x_jax.conditioning.input_files import read_input_file
from step1x_jax.errors import UserError
from step1x_jax.json_files import parse_json, shown

Tokenize = Callable[[str], list[int]]  # knows Qwen's special tokens, adds none by itself

FILE = "tokenizer.json"
LARGEST = 256 << 20  # bytes; Qwen's has 11 million
OLDER_FILES = ("vocab.json", "merges.txt")
# How Qwen splits text before its merges. No other pattern from a file is run: some never end.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Read back, this must be itself: capitals, spaces, line ends, signs, bytes of several scripts.
PROBE = 'Give the girl\'s  HAT 12 "stars", and\n\twrite “夜” on it! é 😀 <|vision_end|>'


def missing(folder: epath.PathLike) -> str | None:
    """Return which tokenizer file a folder lacks, and how to make it of older ones; or None."""
    path = epath.Path(folder) / FILE
    if path.is_file():
        return None
    if not all((epath.Path(folder) / name).is_file() for name in OLDER_FILES):
        return f"{path} does not exist"
    return (
        f"{path} does not exist; make it of {' and '.join(OLDER_FILES)} with transformers:"
        " AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
    )


def load_tokenizer(folder: epath.PathLike, vocabulary: int | None = None) -> Tokenize:
    """The tokenizer of a Hugging Face folder.

    Truncation and padding, which files keep of the last call before they were saved, are switched
    off, as transformers does.

    Args:
      folder: holds tokenizer.json.
      vocabulary: how many ids the model has embeddings for; None does not compare.

    Returns:
      Text to ids, special tokens recognised and none added.

    Raises:
      UserError: there is none, it is unreadable, or not of Qwen2.5-VL's kind.
    """
    if reason := missing(folder):
        raise UserError(f"{reason}; give the folder of a Qwen2.5-VL model.")
    path = epath.Path(folder) / FILE
    data = read_input_file(path, "a tokenizer", LARGEST)
    values = parse_json(data, f"{path} is not a readable tokenizer: its text")
    _check_kind(values, path)
    try:
        tokenizer = tokenizers.Tokenizer.from_str(data.decode("utf-8-sig"))
    except Exception as e:  # the library raises bare Exception
        raise UserError(
            f"{path} is not a readable tokenizer ({str(e)[:200]}); download it again."
        ) from e
    tokenizer.no_truncation()
    tokenizer.no_padding()
    highest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if vocabulary is not None and highest >= vocabulary:
        raise UserError(
            f"{path} has the id {highest}, and the model beside it embeddings for {vocabulary};"
            " download the folder again."
        )

    def tokenize(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    pieces = [tokenizer.id_to_token(i) or "" for i in tokenize(PROBE)]
    read_back = tokenizers.decoders.ByteLevel().decode(pieces)
    if read_back != PROBE:
        raise UserError(
            f"{path} does not keep what it reads ({PROBE!r} becomes {shown(read_back)}); give the"
            " tokenizer of Qwen2.5-VL."
        )
    return tokenize


def _check_kind(values: Any, path: epath.Path) -> None:
    """Raise UserError, naming it, for what Qwen2.5-VL's tokenizers do not have."""
    model = values.get("model") if isinstance(values, dict) else None
    if not isinstance(model, dict):
        raise UserError(f"{path} is not a readable tokenizer (no model); download it again.")
    reasons = [
        (model.get("type", "BPE") != "BPE", f"a model of type {shown(model.get('type'))}"),
        (bool(model.get("dropout")), f"dropout {shown(model.get('dropout'))}"),
    ]
    patterns = {
        pattern for name, part in values.items() if name != "model" for pattern in _patterns(part)
    }
    reasons += [(pattern != PATTERN, f"the pattern {shown(pattern)}") for pattern in patterns]
    for wrong, what in reasons:
        if wrong:
            raise UserError(
                f"{path} has {what}, which Qwen2.5-VL's has not; give the tokenizer of Qwen2.5-VL."
            )


def _patterns(part: Any) -> Iterator[str]:
    """Find all regular expressions in a part of the file."""
    if isinstance(part, dict):
        for name, value in part.items():
            if name == "Regex":
                yield str(value)
            else:
                yield from _patterns(value)
    elif isinstance(part, list):
        for value in part:
            yield from _patterns(value)
