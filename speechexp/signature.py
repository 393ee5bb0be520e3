"""What a ``_target_`` takes, read from its source: a misspelt argument is found without importing torch."""

import ast
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Parameter:
    """A parameter of a class or function.

    Attributes:
        annotation: Its type, as syntax.
        required: Whether it has no default.
    """

    annotation: ast.expr | None
    required: bool


class UnknownTarget(Exception):
    """A ``_target_`` that isn't there; ``choices`` are the names beside it."""

    def __init__(self, choices: Sequence[str]) -> None:
        super().__init__()
        self.choices = list(choices)


def parameters_of(target: str) -> dict[str, Parameter] | None:
    """Return the parameters of ``package.module.Name``, or None where its source does not tell.

    Keyword arguments that a class hands on to its base are followed.

    Raises:
        UnknownTarget: The module or the name does not exist.
    """
    module_path, name = _locate(target)
    if module_path is None:
        return None
    definitions = {
        node.name: node
        for node in _parse(module_path).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
    }
    if name not in definitions:
        raise UnknownTarget([each for each in definitions if not each.startswith("_")])
    return _parameters(definitions[name], module_path)


def _locate(target: str) -> tuple[Path | None, str]:
    """Find the file of a dotted name, importing nothing but what finds packages."""
    parts = target.split(".")
    try:
        spec = importlib.util.find_spec(parts[0])
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        raise UnknownTarget([])
    if spec.submodule_search_locations is None:
        return None, ""
    folder = Path(next(iter(spec.submodule_search_locations)))
    for i, part in enumerate(parts[1:], 1):
        if (folder / f"{part}.py").is_file() and i == len(parts) - 2:
            return folder / f"{part}.py", parts[-1]
        if not (folder / part).is_dir():
            if parts[0] == "speechexp" and i < len(parts) - 1:
                raise UnknownTarget(sorted(file.stem for file in folder.glob("*.py")))
            return None, ""  # re-exported or nested: left to Hydra
        folder /= part
    return None, ""


@cache
def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _parameters(node: ast.ClassDef | ast.FunctionDef, path: Path) -> dict[str, Parameter] | None:
    if isinstance(node, ast.FunctionDef):
        return _of_function(node) if node.args.kwarg is None else None
    inits = [each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"]
    own = _of_function(inits[0]) if inits else {}
    own.pop("self", None)
    if inits and inits[0].args.kwarg is None:
        return own
    for base in _bases(node, path):
        inherited = _parameters(*base)
        if inherited is not None:
            return {**inherited, **own}
    return None


def _bases(node: ast.ClassDef, path: Path) -> Iterator[tuple[ast.ClassDef, Path]]:
    module = _parse(path)
    for base in node.bases:
        if not isinstance(base, ast.Name):
            continue
        for statement in module.body:
            if isinstance(statement, ast.ClassDef) and statement.name == base.id:
                yield statement, path
            elif isinstance(statement, ast.ImportFrom) and base.id in {
                alias.name for alias in statement.names
            }:
                source, _ = _locate(f"{statement.module}.{base.id}")
                if source is not None:
                    for each in _parse(source).body:
                        if isinstance(each, ast.ClassDef) and each.name == base.id:
                            yield each, source


def _of_function(node: ast.FunctionDef) -> dict[str, Parameter]:
    positional = [*node.args.posonlyargs, *node.args.args]
    first_default = len(positional) - len(node.args.defaults)
    found = {each.arg: Parameter(each.annotation, i < first_default) for i, each in enumerate(positional)}
    for each, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
        found[each.arg] = Parameter(each.annotation, default is None)
    return found


def expected(annotation: ast.expr | None, value: Any, aliases: Mapping[str, ast.expr]) -> str | None:
    """Return what a value should have been, in words, or None if it is that (or the type is not a plain one)."""
    words: list[str] = []
    for alternative in _alternatives(annotation, aliases):
        fits, word = _fits(alternative, value)
        if fits:
            return None
        words.append(word)
    if not words:
        return None
    return " or ".join(dict.fromkeys(words))


def aliases_of(target: str) -> dict[str, ast.expr]:
    """Return the type aliases that a target's module defines or imports from its own package."""
    path, _ = _locate(target)
    return {} if path is None else _aliases(path)


def _aliases(path: Path) -> dict[str, ast.expr]:
    found: dict[str, ast.expr] = {}
    for statement in _parse(path).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            found[statement.targets[0].id] = statement.value
        elif isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith("speechexp"):
            for alias in statement.names:
                source, _ = _locate(f"{statement.module}.{alias.name}")
                if source is not None and source != path:
                    for each in _parse(source).body:
                        if (
                            isinstance(each, ast.Assign)
                            and isinstance(each.targets[0], ast.Name)
                            and each.targets[0].id == alias.name
                        ):
                            found[alias.name] = each.value
    return found


def _alternatives(node: ast.expr | None, aliases: Mapping[str, ast.expr]) -> Iterator[ast.expr | None]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        yield from _alternatives(node.left, aliases)
        yield from _alternatives(node.right, aliases)
    elif isinstance(node, ast.Name) and node.id in aliases:
        yield from _alternatives(aliases[node.id], aliases)
    else:
        yield node


def _fits(node: ast.expr | None, value: Any) -> tuple[bool, str]:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    simple = {
        "int": (isinstance(value, int) and not isinstance(value, bool), "a whole number"),
        "float": (number, "a number"),
        "bool": (isinstance(value, bool), "true or false"),
        "str": (isinstance(value, str), "text"),
        "Path": (isinstance(value, str), "a path"),
    }
    if isinstance(node, ast.Constant) and node.value is None:
        return value is None, "null"
    if isinstance(node, ast.Name) and node.id in simple:
        return simple[node.id]
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
        kind = node.value.id
        if kind == "Literal":
            items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            choices = [item.value for item in items if isinstance(item, ast.Constant)]
            return value in choices, "one of " + ", ".join(str(choice) for choice in choices)
        if kind in ("Sequence", "list", "tuple"):
            items_fit = isinstance(value, list) and all(_fits(node.slice, each)[0] for each in value)
            return items_fit, f"a list, each {_fits(node.slice, None)[1]}"
        if kind in ("Mapping", "dict"):
            return isinstance(value, dict), "a group of settings"
    return True, ""  # not a plain type: the class itself must judge
