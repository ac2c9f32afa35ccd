"""launch/guides/api.md is what tests/api_page.py makes of the docstrings."""

import ast
import re

import step1x_jax
from tests import api_page

SOURCE = '''
@dataclasses.dataclass
class Config:
    """All *that* is `a*b` needed.

    More of it.
    """

    # Of something; "x|y"
    # goes on.
    size: Annotated[int, Meta(ge=0)] = 3
    parts: list[str] = dataclasses.field(default_factory=list)  # by name
    plain: float | None = None

    def validate(self) -> None:
        """Left out."""

    def _hidden(self) -> None:
        """Left out, too."""

    @property
    def twice(self) -> int:
        """Of the size."""

    def change(self, x: int, y: str = "a", *, z: bool = False) -> "Config":
        """Changes it.

        Args:
          x: a number,
            of something.
          y: a word.

        Returns:
          What is new: all of it.
            first: the first.

        Raises:
          UserError: no.
        """


make = Config.change
'''
EXPECTED = """\
All \\*that\\* is `a*b` needed.

More of it.

| field | type | default | |
|---|---|---|---|
| `size` | `int` | `3` | Of something; "x\\|y" goes on. |
| `parts` | `list[str]` | `list()` | by name |
| `plain` | `float \\| None` | `None` |  |

#### Config.twice

A property, `int`.

Of the size.

#### Config.change

```python
change(x: int, y: str = 'a', *, z: bool = False) -> Config
```

Changes it.

**Args:**

- `x`: a number,
  of something.
- `y`: a word.

**Returns:**

What is new: all of it.
- first: the first.

**Raises:**

- `UserError`: no.
"""


def test_the_page_is_up_to_date():
    same = api_page.PAGE.read_text() == api_page.page()
    assert same, "run python -m tests.api_page, and look at what it changes"


def test_every_export_has_its_section():
    titles = re.findall(r"^### (.+)$", api_page.PAGE.read_text(), re.MULTILINE)
    assert titles == [*step1x_jax.EXPORTS]


def test_docstrings_and_fields_as_markdown():
    (node, _) = ast.parse(SOURCE).body
    assert api_page.describe_class(node, SOURCE) == EXPECTED


def test_long_signatures_are_folded(monkeypatch):
    monkeypatch.setattr(api_page, "WIDTH", 20)
    node = ast.parse(SOURCE).body[0].body[-1]
    signature = api_page.describe_function(node).partition("\n```\n")[0]
    assert signature == (
        "```python\nchange(\n    x: int,\n    y: str = 'a',\n    *,\n    z: bool = False,\n)"
        " -> Config"
    )
