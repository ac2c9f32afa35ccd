"""The tables of tests/mutations/ fit the code (making all takes hours), and what a row can be."""

import ast

import pytest

from tests.mutations.__main__ import problems
from tests.mutations.table import read_mutations
from tests.mutations.tree import DoesNotFit, replaced

SOURCE = '''\
LIMIT = 3  # of lengths

def add(values, extra):
    """Adds."""
    if not values or extra:
        raise ValueError(f"empty: {values}")
    elif len(values) > LIMIT:
        return sum(values)  # at once
    total = {"a": 1, "b": [x for x in values if x > 2]}
    return join(total, axis=1,
        width=2) + len(values)

class Box:
    size = 3

    @property
    def open(self):
        try:
            return (self.size, LIMIT)
        except KeyError as e:
            raise self.error from e
'''


def changes(where, old, new, source=SOURCE):
    """Lines that are new or other ones, as ast.unparse writes them."""
    before = ast.unparse(ast.parse(source)).splitlines()
    after = ast.unparse(ast.parse(replaced(source, where, old, new))).splitlines()
    return [line.strip() for line in after if line not in before]


def test_every_mutation_can_be_made():
    assert problems(read_mutations()) == []


@pytest.mark.parametrize(
    ("where", "old", "new", "line"),
    [
        ("", "LIMIT = 3", "LIMIT = 4", "LIMIT = 4"),
        ("Box", "3", "4", "size = 4"),
        ("add", "sum( values )", "0", "return 0"),
        ("add", "axis=1", "", "return join(total, width=2) + len(values)"),
        ("add", "total, axis=1", "axis=2", "return join(axis=2, width=2) + len(values)"),
        ("add", "... + len(values)", "...", "return join(total, axis=1, width=2)"),
        ("add", "join(...,axis=1, width=2)", "...", "return total + len(values)"),
        ("add", "'a': 1", "'a': 2", "total = {'a': 2, 'b': [x for x in values if x > 2]}"),
        ("add", "x > 2", "", "total = {'a': 1, 'b': [x for x in values]}"),
        (
            "add",
            "for x in values if x > 2",
            "for x in ()",
            "total = {'a': 1, 'b': [x for x in ()]}",
        ),
        ("add", "not values", "", "if extra:"),
        ("add", "if not values or extra:", "if False:", "if False:"),
        ("add", "if len(values) > LIMIT:", "if False:", "elif False:"),
        ("add", "raise ValueError(...)", "pass", "pass"),
        ("Box.open", "self.size, LIMIT", "LIMIT", "return (LIMIT,)"),
        ("Box.open", "except KeyError as e:", "except OSError as e:", "except OSError as e:"),
    ],
)
def test_a_part_is_replaced(where, old, new, line):
    assert changes(where, old, new) == [line]


def test_the_rest_of_the_text_stays():
    now = SOURCE.replace("len(values) > LIMIT", "False")
    assert replaced(SOURCE, "add", "if len(values) > LIMIT:", "if False:") == now
    now = SOURCE.replace("LIMIT = 3", "LIMIT = 4\nMORE = 5")
    assert replaced(SOURCE, "", "LIMIT = 3", "LIMIT = 4\nMORE = 5") == now


@pytest.mark.parametrize(
    ("where", "old", "reason"),
    [
        ("add", "len(values)", "occurs 2 times in add"),
        ("add", "size", "occurs 0 times in add"),
        ("", "x > 2", "occurs 0 times in the module"),  # what is in functions is not the module's
        ("Box.shut", "0", "no Box.shut"),
        ("add", "if extra:", "not parts of one kind"),
    ],
)
def test_what_is_not_there_once_is_refused(where, old, reason):
    with pytest.raises(DoesNotFit, match=reason):
        replaced(SOURCE, where, old, "0")


def test_one_of_several():
    assert "join(total, axis=1, width=2) + 0" in replaced(SOURCE, "add", "len(values)", "0", 2)


def test_variables_may_be_renamed():
    renamed = SOURCE.replace("total", "found")
    line = "return join(found, axis=found, width=2) + len(values)"
    assert changes("add", "total, axis=1", "total, axis=total", renamed) == [line]
    with pytest.raises(DoesNotFit):  # but what is no variable of the function may not
        replaced(SOURCE.replace("LIMIT", "MOST"), "Box.open", "LIMIT", "0")
    with pytest.raises(DoesNotFit):  # nor what is there, besides
        replaced(SOURCE, "add", "extra, axis=1", "0")
