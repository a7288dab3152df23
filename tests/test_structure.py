"""The structure of the sources: no circle of files, short files, imports at the top, no feature kind known outside."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "attrbench": ROOT / "attrbench",
    "attrbench_methods": ROOT / "plugins" / "attrbench_methods",
    "attrbench_tasks": ROOT / "tasks" / "attrbench_tasks",
}
MOST_LINES = 350
MOST_INNER_IMPORTS = 50
KINDS = {"GradientRows", "GradientProducts", "GradientGram", "Outputs", "Images", "Prompts"}


@cache
def modules() -> dict[str, Path]:
    found = {}
    for package, folder in PACKAGES.items():
        for file in folder.rglob("*.py"):
            parts = file.relative_to(folder).with_suffix("").parts
            found[".".join([package, *(part for part in parts if part != "__init__")])] = file
    return found


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def imported(file: Path) -> Iterator[str]:
    """Yield every module of ours that a file imports, in functions and for type checking too."""
    known = modules()
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else node.module


def circles() -> list[list[str]]:
    """Return the strongly connected components of more than one module (Tarjan 1972)."""
    graph = {name: sorted(set(imported(file)) - {name}) for name, file in modules().items()}
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in graph[name]:
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            members = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(members) > 1:
                found.append(sorted(members))

    for name in graph:
        if name not in index:
            visit(name)
    return found


def inner_imports(file: Path) -> list[int]:
    """Return the lines of imports inside functions."""
    functions = [node for node in ast.walk(tree(file)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return sorted(
        {
            node.lineno
            for function in functions
            for node in ast.walk(function)
            if isinstance(node, ast.Import | ast.ImportFrom)
        }
    )


@pytest.mark.slow
def test_no_files_import_each_other_in_a_circle():
    assert circles() == []


def test_no_file_is_long():
    lines = {name: len(file.read_text(encoding="utf-8").splitlines()) for name, file in modules().items()}
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


def test_imports_inside_functions_are_few_and_each_says_why():
    places = [(name, file, line) for name, file in modules().items() for line in inner_imports(file)]
    silent = []
    for name, file, line in places:
        lines = file.read_text(encoding="utf-8").splitlines()
        if "#" not in lines[line - 1] and "#" not in lines[line - 2]:
            silent.append(f"{name}:{line}")
    assert len(places) < MOST_INNER_IMPORTS
    assert silent == []


def test_nothing_outside_the_features_asks_for_a_feature_kind():
    asked = []
    for name, file in modules().items():
        if name.startswith("attrbench.features"):
            continue
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
                names = {inner.id for inner in ast.walk(node.args[1]) if isinstance(inner, ast.Name)}
                if names & KINDS:
                    asked.append(f"{name}:{node.lineno}")
    assert asked == []
