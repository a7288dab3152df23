"""The documentation keeps up with the code."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

from attrbench.plugins import hookspecs
from attrbench.plugins.registry import registry

DOCS = Path(__file__).parent.parent / "docs"
PLUGINS = (DOCS / "how-to" / "plugins.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PLUGINS, flags=re.DOTALL | re.MULTILINE)
HOOKS = {
    name: list(inspect.signature(hook).parameters)
    for name, hook in inspect.getmembers(hookspecs, inspect.isfunction)
    if hasattr(hook, "attrbench_spec")
}


def _own(kind: str) -> list[str]:
    """Names that attrbench itself registers."""
    found = registry()
    return [name for name in found.names(kind) if found.provider(kind, name).distribution == "attrbench"]


def test_hooks_are_found() -> None:
    assert {"register_methods", "register_tasks", "record_written"} <= HOOKS.keys()


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_is_documented_with_its_parameters(name: str) -> None:
    documented = [
        [argument.arg for argument in node.args.args]
        for block in BLOCKS
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.FunctionDef) and node.name == name
    ]
    assert documented, f"docs/how-to/plugins.md has no 'def {name}(...)'"
    for parameters in documented:
        assert parameters == HOOKS[name]


def test_there_is_no_documented_hook_that_does_not_exist() -> None:
    named = set(re.findall(r"`((?:register|stage|record)_[a-z]+)`", PLUGINS))
    assert named <= HOOKS.keys()


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_python_blocks_compile(number: int) -> None:
    ast.parse(BLOCKS[number])


@pytest.mark.parametrize("name", _own("method"))
def test_every_method_has_a_page_that_gives_its_options_and_their_defaults(name: str) -> None:
    path = DOCS / "methods" / f"{name}.md"
    assert path.is_file(), f"there is no page {path.relative_to(DOCS.parent)}"
    rows = dict(re.findall(r"^\| `(\w+)` \| `([^`]*)` \|", path.read_text(encoding="utf-8"), flags=re.MULTILINE))
    fields = registry().method(name).Options.model_fields
    assert rows == {option: _shown(field.default) for option, field in fields.items()}


def _shown(default: object) -> str:
    """A default as one writes it on the command line."""
    return "none" if default is None else str(default).lower() if isinstance(default, bool) else str(default)


@pytest.mark.parametrize("name", _own("task"))
def test_every_task_and_its_options_are_documented(name: str) -> None:
    text = (DOCS / "reference" / "tasks.md").read_text(encoding="utf-8")
    assert f"`{name}`" in text
    for option in registry().task(name).Options.model_fields:
        assert f"`{option}`" in text


@pytest.mark.parametrize("name", _own("metric"))
def test_every_metric_is_documented(name: str) -> None:
    assert f"`{name}`" in (DOCS / "reference" / "metrics.md").read_text(encoding="utf-8")


def _pages() -> list[Path]:
    """Return every Markdown page of the repository that links to others."""
    return [*sorted(DOCS.rglob("*.md")), *sorted(DOCS.parent.glob("*.md")), *DOCS.parent.glob("leaderboards/*.md")]


def _anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub and Python-Markdown both form them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


@pytest.mark.parametrize("page", _pages(), ids=lambda page: str(page.relative_to(DOCS.parent)))
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists() or "reference/api" in path, f"{target} leads nowhere"
        if anchor and file.suffix == ".md":
            assert anchor in _anchors(file), f"{target}: there is no such heading"


@pytest.mark.parametrize("page", _pages(), ids=lambda page: str(page.relative_to(DOCS.parent)))
def test_every_path_of_the_repository_that_is_named_exists(page: Path) -> None:
    if page.name == "CHANGELOG.md":
        return  # what it tells of may be gone
    text = page.read_text(encoding="utf-8")
    for path in re.findall(r"`((?:attrbench|plugins|tasks|tests|leaderboards|docs)/[\w/.-]+)`", text):
        if not any(Path(part).stem.isupper() for part in path.split("/")):  # TASK, NAME.md stand for names
            assert (DOCS.parent / path).exists(), f"there is no {path}"


def test_every_page_of_a_method_is_in_the_index_and_in_the_navigation() -> None:
    index = (DOCS / "methods" / "index.md").read_text(encoding="utf-8")
    navigation = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8")
    for name in _own("method"):
        assert f"[{name}]({name}.md)" in index
        assert f"{name}: methods/{name}.md" in navigation
