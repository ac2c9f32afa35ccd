"""Tiny random models of the real classes, as save_pretrained writes them, and rows for them."""

import io
import operator

import numpy as np
import pytest
from PIL import Image

from step1x_jax.curation.engine.rows import Context
from step1x_jax.errors import UserError

CONTEXT = Context(seed=0, stage="tiny", part="p", folder="")


def encoded(seed, size=(40, 30)):
    """A PNG of coarse random colours."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    stream = io.BytesIO()
    coarse.resize(size, Image.Resampling.BICUBIC).save(stream, "png")
    return stream.getvalue()


def decoded(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def check_batches(stage, rows, same=operator.eq):
    """What a stage makes of rows, which is the same one by one; a bad picture harms no other.

    Args:
      stage: to be opened.
      rows: several.
      same: whether what it makes of a row is the same.
    """
    operate = stage.open()
    made = operate(rows, CONTEXT)
    for row, one in zip(rows, made, strict=True):
        assert same(operate([row], CONTEXT)[0], one)
    (column,) = [name for name in ("picture", "source") if name in rows[0]]
    bad = rows[0] | {column: b"no picture"}
    mixed = operate([rows[0], bad, *rows[1:]], CONTEXT)
    assert mixed[1].reason == operate([bad], CONTEXT)[0].reason == "unreadable_picture"
    assert all(map(same, [mixed[0], *mixed[2:]], made))
    for one in made:
        assert set(one) <= set(stage.writes)
    return list(made)


def check_missing(stage, folder, file="model.safetensors"):
    """Without a tensor, and without the file, the stage says so in a sentence.

    Args:
      stage: of the model in `folder`.
      folder: a copy that is spoilt.
      file: of weights in it.
    """
    from safetensors.torch import load_file, save_file

    before = stage.fingerprint()
    tensors = load_file(folder / file)
    tensors.pop(max(tensors, key=lambda name: tensors[name].numel()))
    save_file(tensors, folder / file, {"format": "pt"})
    with pytest.raises(UserError, match=r"^the weights of .* missing .* download it again\.$"):
        stage.open()
    assert stage.fingerprint() != before
    (folder / file).unlink()
    with pytest.raises(UserError, match=r"cannot be loaded as \w+ .* download it again\.$"):
        stage.open()
