"""What is wrong with a name of the user's code, seen in its source without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Any

from lwplugin.data.user_code import no_object, reference_parts, source_file
from lwplugin.errors import DataError, did_you_mean


def foresee(reference: str, *, what: str, arguments: Mapping[str, Any] | None = None) -> None:
    """Refuses what shows without running the file: that it is absent or no Python, does not name the object, or that a
    plain function does not take ``arguments``. Whatever else is wrong is left to `load_object`.

    Raises DataError. (Parent packages of a dotted module are imported.)
    """
    place, name = reference_parts(reference, what)
    path = source_file(place, what)
    if path.suffix != ".py":
        return
    try:
        named = list(_names(ast.parse(path.read_bytes())))
    except (SyntaxError, ValueError) as error:
        raise DataError(
            f"The file '{path}' of the {what} is not Python", got=error, do="correct it"
        ) from error
    first = name.partition(".")[0]
    found = [node for known, node in named if known == first]
    if not found and not {"*", "__getattr__", "globals", "exec"} & {known for known, _ in named}:
        raise no_object(reference, what, first, {known for known, _ in named})
    if arguments is None or len(found) != 1:
        return
    if isinstance(node := found[0], ast.FunctionDef) and not node.decorator_list:
        _check_arguments(reference, what, node.args, arguments)


def _names(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """What a module defines, imports or uses outside of its functions and classes."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield child.name, child
        elif isinstance(child, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name.partition(".")[0], child) for alias in child.names)
        elif isinstance(child, ast.Name):
            yield child.id, child
        else:
            yield from _names(child)


def _check_arguments(reference: str, what: str, takes: ast.arguments, given: Mapping[str, Any]) -> None:
    plain = [argument.arg for argument in takes.args]
    by_name = [argument.arg for argument in takes.kwonlyargs]
    for name in given:
        if name not in (*plain, *by_name) and takes.kwarg is None:
            raise DataError(
                f"The {what} '{reference}' takes no argument '{name}'",
                do=did_you_mean(name, (*plain, *by_name)),
            )
    needed = plain[: max(len(plain) - len(takes.defaults), 0)]
    needed += [name for name, default in zip(by_name, takes.kw_defaults, strict=True) if default is None]
    if missing := [name for name in needed if name not in given]:
        raise DataError(
            f"The {what} '{reference}' needs the argument '{missing[0]}'",
            got=", ".join(given) or "none",
            do=f"write args: {{{missing[0]}: …}} beside it",
        )
