"""Choices in model configs: they match the implementations."""

import subprocess
import sys

import pytest

from step1x_jax import choices
from step1x_jax.errors import UserError
from step1x_jax.kernels.attention import choose
from step1x_jax.models import eight_bits, remat


def test_choices_match_the_implementations():
    implemented = (remat.AUTO, "none", *remat.SAVED, remat.OFFLOAD)
    assert implemented == choices.REMAT
    assert tuple(eight_bits.DTYPES) == choices.EIGHT_BITS


@pytest.mark.parametrize("name", [*choices.ATTENTION, "flash_attention_4"])
def test_attention_choices_are_known(name):
    try:
        found = choose(64, "float16", implementation=name)
    except UserError as e:
        found = "unknown" if "is unknown" in str(e) else name  # known, but not supported here
    assert found == (name if name in choices.ATTENTION else "unknown")


def test_importing_the_config_imports_no_heavy_packages():
    code = """
import sys
from step1x_jax.models.config import PRESETS
assert [make() for make in PRESETS.values()]
heavy = ("optax", "orbax.checkpoint", "jax.experimental.pallas", "transformers")
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
