"""The templates of the HTML report, with their style and script, as files of the package."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from attrbench.reports.html.plot import Plot
from attrbench.version import __version__


@cache
def environment() -> Environment:
    """Return the template environment: every value is escaped, and a name that is not given is an error."""
    made = Environment(
        loader=PackageLoader("attrbench.reports.html", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["breakable"] = breakable
    made.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return made


def plot_picture(plot: Plot) -> bytes:
    """Return a plot as an SVG file, with its style in it and all text escaped."""
    return environment().get_template("plot.svg").render(plot=plot, css=source("parts.css")).strip().encode()


@cache
def source(name: str) -> Markup:
    """Return the text of a style or script that is part of the package, as it stands."""
    made = environment()
    assert made.loader is not None
    return Markup(made.loader.get_source(made, name)[0])  # noqa: S704  # a file of ours, no text from others


def page(template: str, **values: object) -> bytes:
    """Return a page with its style and script as UTF-8, and the policy that allows these two and nothing else."""
    css, script = source("parts.css") + source("page.css"), source("report.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(css)}'; script-src '{_hash(script)}';"
        " base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
    )
    shared: Mapping[str, object] = {"css": css, "script": script, "policy": policy, "version": __version__}
    return environment().get_template(template).render(**shared, **values).encode()


def _hash(content: str) -> str:
    """Return the hash of an inline style or script as a content security policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"


def breakable(label: str) -> Markup:
    """Return a label escaped, with places where a line may break: after `:`, `,`, `|`, `_` and `=`, and before `@`."""
    marked = "".join(f"{character}\0" if character in ":,|_=" else character for character in label.replace("@", "\0@"))
    return Markup("<wbr>").join(escape(part) for part in marked.split("\0"))
