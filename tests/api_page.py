"""Writes launch/guides/api.md: what `step1x_jax` exports, from the docstrings.

    python -m tests.api_page

It reads the sources and imports none of them, so that the page is the same under every Python.
tests/test_api_page.py fails as long as the page is another one.
"""

import ast
import inspect
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

from step1x_jax import EXPORTS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "launch/guides/api.md"
WIDTH = 100  # of a signature in one line
INTRODUCTION = """\
# What Python code can use

Made from the docstrings by `python -m tests.api_page`: change those, not this page.

All of this is imported from the package, as in `from step1x_jax import Editor`, and loaded with its
first use. Other names of the package may change in any version; these change with a line in the
[changelog](changelog.md).

What a user can cause raises `UserError`, whose message says what to do ([errors](errors.md)). Every
config has `validate()`, which raises it for values that cannot be used and names the field.
"""
SECTION = re.compile(r"(Args|Attributes|Returns|Raises)\b.*:")
ENTRY = re.compile(r"  (\w+): (.*)")  # of all sections but Returns


def page() -> str:
    """The whole page."""
    parts, last = [INTRODUCTION], ""
    for name, module in EXPORTS.items():
        room = module.partition(".")[0]
        if room != last:
            parts.append(f"## {room}\n\n{summary(room)}\n")
            last = room
        parts.append(f"### {name}\n\n{describe(name, module)}")
    return "\n".join(parts)


def summary(room: str) -> str:
    """The first paragraph of the docstring of a folder or file of the package."""
    folder = ROOT / "step1x_jax" / room
    file = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    return (ast.get_docstring(ast.parse(file.read_text())) or "").partition("\n\n")[0]


def describe(name: str, module: str) -> str:
    """A class, a function, or another name of a function."""
    source = (ROOT / "step1x_jax" / f"{module.replace('.', '/')}.py").read_text()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return describe_function(node)
        if isinstance(node, ast.ClassDef) and node.name == name:
            return describe_class(node, source)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return f"The same as `{ast.unparse(node.value)}`.\n"
    raise LookupError(f"{module} defines no {name}")


def describe_class(node: ast.ClassDef, source: str) -> str:
    """Docstring; fields, where it does not list them; methods."""
    text = to_markdown(node)
    fields = [child for child in node.body if isinstance(child, ast.AnnAssign)]
    if fields and "**Attributes:**" not in text:
        comments = find_comments(source)
        text += "\n| field | type | default | |\n|---|---|---|---|\n"
        text += "".join(f"| {' | '.join(describe_field(x, comments))} |\n" for x in fields)
    for child in node.body:
        if isinstance(child, ast.FunctionDef) and not re.match("_|validate$", child.name):
            text += f"\n#### {node.name}.{child.name}\n\n{describe_function(child)}"
    return text


def describe_field(field: ast.AnnAssign, comments: dict[int, tuple[bool, str]]) -> Iterator[str]:
    """Name, type, default and comment."""
    kind, default = field.annotation, field.value
    if isinstance(kind, ast.Subscript) and ast.unparse(kind.value) == "Annotated":
        assert isinstance(kind.slice, ast.Tuple)
        kind = kind.slice.elts[0]  # without its bounds
    if isinstance(default, ast.Call) and default.keywords:  # dataclasses.field(default_factory=X)
        default = ast.Call(default.keywords[0].value, [], [])
    words, above = [], field.lineno - 1
    while comments.get(above, (False, ""))[0]:
        words.insert(0, comments[above][1])
        above -= 1
    lines = range(field.lineno, (field.end_lineno or 0) + 1)
    words += [comments[line][1] for line in lines if line in comments]
    yield f"`{ast.unparse(field.target)}`"
    yield f"`{ast.unparse(kind)}`".replace("|", "\\|")
    yield f"`{ast.unparse(default)}`" if default else ""
    yield escape(" ".join(words)).replace("|", "\\|")


def find_comments(source: str) -> dict[int, tuple[bool, str]]:
    """Line -> whether it holds nothing but a comment, and the comment."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {
        token.start[0]: (token.line.lstrip().startswith("#"), token.string.lstrip("# "))
        for token in tokens
        if token.type == tokenize.COMMENT
    }


def describe_function(node: ast.FunctionDef) -> str:
    """Signature and docstring."""
    returns = node.returns
    result = returns.value if isinstance(returns, ast.Constant) else returns
    result = ast.unparse(result) if isinstance(result, ast.expr) else str(result)
    if any(ast.unparse(one) == "property" for one in node.decorator_list):
        return f"A property, `{result}`.\n\n{to_markdown(node)}"
    words = list(describe_arguments(node.args))
    line = f"{node.name}({', '.join(words)}) -> {result}"
    if len(line) > WIDTH:
        lines = "".join(f"    {word},\n" for word in words)
        line = f"{node.name}(\n{lines}) -> {result}"
    return f"```python\n{line}\n```\n\n{to_markdown(node)}"


def describe_arguments(given: ast.arguments) -> Iterator[str]:
    """Each as it is written; no export has *args or **kwargs."""
    assert not any((given.posonlyargs, given.vararg, given.kwarg))
    without = len(given.args) - len(given.defaults)
    for number, argument in enumerate(given.args):
        default = given.defaults[number - without] if number >= without else None
        if argument.arg not in ("self", "cls"):
            yield describe_argument(argument, default)
    if given.kwonlyargs:
        yield "*"
    for argument, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        yield describe_argument(argument, default)


def describe_argument(argument: ast.arg, default: ast.expr | None) -> str:
    """`name: type = default`."""
    return ast.unparse(argument) + (f" = {ast.unparse(default)}" if default else "")


def to_markdown(node: ast.FunctionDef | ast.ClassDef) -> str:
    """A docstring: paragraphs, then lists of what its sections name."""
    out: list[str] = []
    section = ""
    for line in inspect.cleandoc(ast.get_docstring(node) or "").splitlines():
        entry = ENTRY.fullmatch(line)
        if SECTION.fullmatch(line):
            section = line
            out += [f"**{line}**", ""]
        elif section and entry and not section.startswith("Returns"):
            out.append(f"- `{entry[1]}`: {escape(entry[2])}")
        elif section.startswith("Returns") and line.startswith("    "):
            out.append(f"- {escape(line.strip())}")
        else:  # a paragraph, or what an entry goes on with
            indent = "  " if line.startswith("    ") else ""
            out.append(indent + escape(line.strip()))
    return "\n".join(out) + "\n"


def escape(text: str) -> str:
    """Text in which Markdown finds neither emphasis nor tags, but code between backticks."""
    pieces = text.split("`")
    pieces[::2] = [re.sub(r"([*<])", r"\\\1", piece) for piece in pieces[::2]]
    return "`".join(pieces)


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"wrote {PAGE.relative_to(ROOT)}")
