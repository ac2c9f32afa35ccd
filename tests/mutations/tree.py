"""Finds a part of a syntax tree, and writes another in its place.

A part is a piece of Python that is compared as a tree: line breaks, quotes, brackets and comments
do not matter. It is whichever of these it can be read as:

    statements    total = 0; one, or several one after another
    arguments     x, axis=1; an expression, or several one after another in a call, tuple or list,
                  an operand of "and" or "or", a condition of a comprehension
    items         "a": 1; of a dictionary
    clauses       for x in y if x; of a comprehension
    a head        if x: (elif, too), for, while, with, except; without what is below it

Arguments, items, operands and conditions are left out by the empty text, statements by pass. An
expression ... stands for any; in what is put there, for the same, in the same order.
"""

import ast
import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
DEFINITION = (*FUNCTION, ast.ClassDef)
BELOW = ("body", "orelse", "finalbody", "handlers")  # fields that are not of a statement's head
IGNORED = ("ctx", "type_comment", "kind")


class DoesNotFit(Exception):
    """A sentence about a part that is not there, or not once."""


class Place(NamedTuple):
    """Where a part is, and what comes there."""

    node: Any  # above it
    field: str
    there: list[Any]  # all in this field: nodes, or pairs of nodes (items of a dictionary)
    start: int  # of the part
    size: int
    new: list[Any]


class Reading(NamedTuple):
    """`old` and `new`, read as parts of one kind."""

    old: list[Any]
    new: list[Any]
    head: bool  # one statement each, of which the head counts


def replaced(text: str, where: str, old: str, new: str, which: int | None = None) -> str:
    """A module's text with another part; arguments and errors are those of `find`.

    Only the statement in which the part is, or those that it is, are written anew.
    """
    tree = ast.parse(text)
    place = find(tree, where, old, new, which)
    _put(place)
    if isinstance(place.there[0], ast.stmt):
        before = place.there[place.start : place.start + place.size]
        after = place.new or [ast.Pass()]
    else:
        around = [node for node in ast.walk(tree) if isinstance(node, ast.stmt)]
        before = after = [node for node in around if place.node in ast.walk(node)][-1:]
    source = text.encode()
    begin, end = _offset(source, before[0]), _offset(source, before[-1], end=True)
    written = _unparse(after, before[0].col_offset)
    if source[begin:].startswith(b"elif"):
        written = f"el{written}"
    result = source[:begin].decode() + written + source[end:].decode()
    assert ast.dump(ast.parse(result)) == ast.dump(ast.parse(ast.unparse(tree)))
    return result


def _offset(source: bytes, statement: Any, end: bool = False) -> int:
    """Bytes before a statement, or up to its end."""
    first = min([statement, *getattr(statement, "decorator_list", [])], key=lambda x: x.lineno)
    line, column = first.lineno, statement.col_offset
    if end:
        line, column = statement.end_lineno, statement.end_col_offset
    return sum(map(len, source.splitlines(keepends=True)[: line - 1])) + column


def _unparse(statements: list[Any], column: int) -> str:
    """Text of statements that begin at a column, without the blanks before the first."""
    depth = column // 4
    for _ in range(depth):
        statements = [ast.If(ast.Constant(True), statements, [])]
    lines = ast.unparse(ast.Module(statements, [])).splitlines(keepends=True)[depth:]
    return "".join(lines).lstrip()


def find(tree: ast.Module, where: str, old: str, new: str, which: int | None = None) -> Place:
    """Where `old` is in a function, or among the own statements of a class or (where "") a module.

    A variable that the function has no longer stands for one of another name, unless the part is
    its name alone: renaming one does not matter.

    Args:
        tree: a module.
        where: qualified name; if there are several, all of them are searched.
        old: a part, see above.
        new: another of the same kind.
        which: its number, from 1, where there are several.

    Raises:
        DoesNotFit: there is no such function, or no such part in it, or more than one.
    """
    scopes: list[ast.AST] = [tree]
    for name in where.split(".") if where else ():
        scopes = [one for scope in scopes for one in _definitions(scope) if one.name == name]
    if not scopes:
        raise DoesNotFit(f"there is no {where}")
    if not (readings := _readings(old, new)):
        raise DoesNotFit(f"{old!r} and {new!r} are not parts of one kind")
    places = [place for scope in scopes for place in _places(scope, readings)]
    if (len(places) != 1) if which is None else (len(places) < which):
        raise DoesNotFit(f"{old!r} occurs {len(places)} times in {where or 'the module itself'}")
    return places[(which or 1) - 1]


def _definitions(scope: ast.AST) -> Iterator[Any]:
    """Functions and classes of a scope, under its `if` and `with`, too, but not those in others."""
    for node in ast.iter_child_nodes(scope):
        if isinstance(node, DEFINITION):
            yield node
        else:
            yield from _definitions(node)


def _nodes(node: ast.AST, nested: bool) -> Iterator[ast.AST]:
    """A node and those below, with or without functions and classes that are nested in it."""
    yield node
    for child in ast.iter_child_nodes(node):
        if nested or not isinstance(child, DEFINITION):
            yield from _nodes(child, nested)


def _readings(old: str, new: str) -> list[Reading]:
    """All that both texts can be."""
    result: list[Reading] = []
    for read in (_read_arguments, _read_items, _read_clauses, _read_head, _read_statements):
        try:
            reading = Reading(read(old), read(new), read is _read_head)
        except SyntaxError:
            continue
        alone = read is _read_statements and all(isinstance(one, ast.Expr) for one in reading.old)
        if reading.old and not (alone and result):  # an expression, found as such
            result.append(reading)
    return result


def _read_statements(text: str) -> list[Any]:
    return ast.parse(text).body


def _read_arguments(text: str) -> list[Any]:
    call = ast.parse(f"f({text})", mode="eval").body
    if not isinstance(call, ast.Call):
        raise SyntaxError
    return [*call.args, *call.keywords]


def _read_items(text: str) -> list[Any]:
    items = ast.parse(f"{{{text}}}", mode="eval").body
    if not isinstance(items, ast.Dict):
        raise SyntaxError
    return list(zip(items.keys, items.values, strict=True))


def _read_clauses(text: str) -> list[Any]:
    made = ast.parse(f"[_ {text}]", mode="eval").body
    if not isinstance(made, ast.ListComp):
        raise SyntaxError
    return list(made.generators)


def _read_head(text: str) -> list[Any]:
    if not text.endswith(":"):
        raise SyntaxError
    if text.startswith("except"):
        (whole,) = ast.parse(f"try: pass\n{text} pass").body
        assert isinstance(whole, ast.Try)
        return list(whole.handlers)
    return ast.parse(f"{text} pass").body


def _places(scope: ast.AST, readings: list[Reading]) -> Iterator[Place]:
    """Where a part is in a function, or in a class or module but for its functions."""
    function = isinstance(scope, FUNCTION)
    variables, none = _Variables(scope if function else None), _Variables(None)
    for node in _nodes(scope, nested=function):
        for field, there in _fields(node):
            for old, new, head in readings:
                if not isinstance(getattr(node, field), list) and len(new) != 1:
                    continue  # one node, for which there must be one
                a_name = len(old) == 1 and isinstance(old[0], ast.Name)
                for i in range(len(there) - len(old) + 1):
                    match = _Match(none if a_name else variables)
                    if match.same(old, there[i : i + len(old)], head):
                        filled = match.fill(new)
                        if head:
                            _move_below(there[i], filled[0])
                        yield Place(node, field, there, i, len(old), filled)


def _fields(node: ast.AST) -> Iterator[tuple[str, list[Any]]]:
    """Fields of a node with what is in them, side by side; keywords are arguments of a call."""
    if isinstance(node, ast.Dict):
        yield "keys", list(zip(node.keys, node.values, strict=True))
        return
    for field, value in ast.iter_fields(node):
        if isinstance(node, ast.Call) and field == "args":
            yield field, [*node.args, *node.keywords]
        elif isinstance(value, list) and not (isinstance(node, ast.Call) and field == "keywords"):
            yield field, value
        elif isinstance(value, ast.AST):
            yield field, [value]


def _put(place: Place) -> None:
    """Changes the tree."""
    node, field, there, start, size, new = place
    now = [*there[:start], *new, *there[start + size :]]
    if isinstance(node, ast.Dict):
        node.keys, node.values = [key for key, _ in now], [value for _, value in now]
    elif isinstance(node, ast.Call) and field == "args":
        node.args = [one for one in now if not isinstance(one, ast.keyword)]
        node.keywords = [one for one in now if isinstance(one, ast.keyword)]
    elif isinstance(getattr(node, field), list):
        is_body = isinstance(there[0], ast.stmt)
        setattr(node, field, now or ([ast.Pass()] if is_body else []))
    else:
        (one,) = now
        setattr(node, field, one)


def _move_below(old: ast.AST, new: ast.AST) -> None:
    """Gives a head what is below another."""
    for field in BELOW:
        if hasattr(old, field) and hasattr(new, field):
            setattr(new, field, getattr(old, field))


class _Variables:
    """Names in a function; in a module or class (None) all are taken as they are."""

    def __init__(self, function: ast.AST | None) -> None:
        nodes = list(ast.walk(function)) if function else []
        names = [node for node in nodes if isinstance(node, ast.Name)]
        parameters = {node.arg for node in nodes if isinstance(node, ast.arg)}
        self.used = parameters | {node.id for node in names}
        self.own = parameters | {node.id for node in names if isinstance(node.ctx, ast.Store)}


class _Match:
    """Compares a part with what is there, and notes what names and ... stand for."""

    def __init__(self, variables: _Variables) -> None:
        self._variables = variables
        self._names: dict[str, str] = {}
        self._anything: list[ast.expr] = []

    def same(self, part: Any, node: Any, head: bool = False) -> bool:
        """Whether both are the same; `head`: but for what is below the statements."""
        if _is_anything(part) and isinstance(node, ast.expr):
            self._anything.append(node)
            return True
        if type(part) is not type(node):
            return False
        if isinstance(part, list | tuple):
            pairs = zip(part, node, strict=False)
            return len(part) == len(node) and all(self.same(*pair, head) for pair in pairs)
        if isinstance(part, ast.Name):
            return self._same_name(part.id, node.id)
        if isinstance(part, ast.AST):
            left_out = IGNORED + (BELOW if head else ())
            return all(
                self.same(value, getattr(node, field))
                for field, value in ast.iter_fields(part)
                if field not in left_out
            )
        return part == node

    def _same_name(self, name: str, there: str) -> bool:
        renamed = name not in self._variables.used and there in self._variables.own
        if name != there and not renamed:
            return False
        taken = {one for one, other in self._names.items() if other == there}
        return self._names.setdefault(name, there) == there and taken <= {name}

    def fill(self, new: list[Any]) -> list[Any]:
        """A copy with the names and expressions that are there."""
        return _Fill(self._names, self._anything).visit_all(copy.deepcopy(new))


class _Fill(ast.NodeTransformer):
    def __init__(self, names: dict[str, str], anything: list[ast.expr]) -> None:
        self._names, self._anything = names, copy.deepcopy(anything)

    def visit_all(self, nodes: list[Any]) -> list[Any]:
        return [
            tuple(self.visit_all(list(one))) if isinstance(one, tuple) else one and self.visit(one)
            for one in nodes
        ]

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name(self._names.get(node.id, node.id), node.ctx)

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        return self._anything.pop(0) if _is_anything(node) and self._anything else node


def _is_anything(part: Any) -> bool:
    return isinstance(part, ast.Constant) and part.value is ...
