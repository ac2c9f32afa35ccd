"""The table of tests/mutations.py fits the code; the mutations themselves take half an hour."""

from tests.mutations import problems


def test_every_mutation_can_be_made():
    assert problems() == []
