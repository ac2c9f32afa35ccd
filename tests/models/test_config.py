"""Sizes and choices of models: what a config may say is what there is."""

import subprocess
import sys

import pytest

from step1x_jax import choices
from step1x_jax.errors import UserError
from step1x_jax.kernels.attention import choose
from step1x_jax.models import eight_bits, remat


def test_choices_are_those_that_are_implemented():
    implemented = (remat.AUTO, "none", *remat.SAVED, remat.OFFLOAD)
    assert implemented == choices.REMAT
    assert tuple(eight_bits.STORED) == choices.EIGHT_BITS


@pytest.mark.parametrize("name", [*choices.ATTENTION, "flash_attention_4"])
def test_every_attention_is_known(name):
    try:
        found = choose(64, "float16", implementation=name)
    except UserError as e:
        found = "unknown" if "is unknown" in str(e) else name  # why it cannot run here
    assert found == (name if name in choices.ATTENTION else "unknown")


def test_the_table_of_sizes_loads_what_the_package_does_and_no_more():
    code = """
import sys
from step1x_jax.models.config import PRESETS
assert [make() for make in PRESETS.values()]
heavy = ("optax", "orbax.checkpoint", "jax.experimental.pallas", "transformers")
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
