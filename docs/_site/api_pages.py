"""Make one page of the API reference for each public module, and put them into the navigation.

A hook of MkDocs (`hooks` in mkdocs.yml). The pages hold one mkdocstrings directive each and exist during a build only,
so a new module has its page without an edit here.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent.parent
FOLDER = "reference/api"
PARTS = ("api", "reporting", "contracts", "gradients", "models", "store")
SECTION = "Python"


def module_name(path: Path) -> str:
    """Return the dotted name of the module in the file `path`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules(part: str) -> list[Path]:
    """Return the files of the public modules of `attrbench.PART`: of a package the package itself first."""
    if (module := ROOT / "attrbench" / f"{part}.py").is_file():
        return [module]
    package = ROOT / "attrbench" / part
    inside = sorted(file for file in package.rglob("*.py") if not file.name.startswith("_"))
    return [package / "__init__.py", *inside] if inside else []


def summary(path: Path) -> str:
    """Return the first line of the module's docstring."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.split("\n\n")[0].replace("\n", " ")


def page_of(path: Path) -> str:
    """Return the page of a module, of a package's `__init__` the index of its folder, as a path below docs/."""
    page = Path(FOLDER, *module_name(path).split(".")[1:])
    return f"{page}/index.md" if path.name == "__init__.py" else f"{page}.md"


def package_page(files: list[Path]) -> str:
    """Return the text of a package's page: its summary and a table of its modules."""
    package, *inside = files
    name, here = module_name(package), Path(page_of(package)).parent
    lines = [f"# {name}", "", summary(package), "", "| module | |", "|---|---|"]
    for file in inside:
        link = f"[`{module_name(file).removeprefix(f'{name}.')}`]({Path(page_of(file)).relative_to(here)})"
        lines.append(f"| {link} | {summary(file)} |")
    return "\n".join([*lines, ""])


def module_page(path: Path) -> str:
    """Return the text of a module's page: the directive that mkdocstrings replaces."""
    return f"# {module_name(path)}\n\n::: {module_name(path)}\n"


def pages() -> dict[str, str]:
    """Return path below docs/ -> Markdown text of all pages of the API reference."""
    texts = {}
    for part in PARTS:
        files = modules(part)
        texts |= {page_of(file): module_page(file) for file in files}
        if len(files) > 1:
            texts[page_of(files[0])] = package_page(files)
    return texts


def navigation() -> list[Any]:
    """Return the navigation of the API reference: a section for each package, a page for each module."""
    entries: list[Any] = []
    for part in PARTS:
        files = modules(part)
        if len(files) > 1:
            name = module_name(files[0])
            inside = [{module_name(file).removeprefix(f"{name}."): page_of(file)} for file in files[1:]]
            entries.append({name: [page_of(files[0]), *inside]})
        else:
            entries += [{module_name(file): page_of(file)} for file in files]
    return entries


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Append the API reference to the section `Reference` of mkdocs.yml."""
    (reference,) = (entry["Reference"] for entry in config.nav or [] if "Reference" in entry)
    reference.append({SECTION: navigation()})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to those that lie in docs/."""
    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files
