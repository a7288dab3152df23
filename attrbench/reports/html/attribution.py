"""Answers of attribution as HTML: a page of its own, and a piece of one for the output of a notebook's cell."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attrbench.contracts.task import Items
from attrbench.data.thumbnail_pictures import thumbnail_of
from attrbench.metrics.agreement import Agreement
from attrbench.reports.contact_sheet import MEANING, MEANING_OF_SEVERAL, Heading, Strip
from attrbench.reports.html.gallery import data_url, strips_gallery, tidy
from attrbench.reports.html.templates import environment, page, source

MOST_IN_NOTEBOOK = 10
"""Pictures that are asked about of which a notebook's cell shows the answers."""
Fact = tuple[str, str]
Cells = tuple[str, str, str, str, str, str, str]


@dataclass(frozen=True)
class Answered:
    """A method that answered, with what is needed to ask it again.

    Attributes:
        label, version: its name with options; its version.
        summary: what its scores are, in a line.
        settings: its options, and what its gradients were taken at, as JSON values.
        lost: number of gradients that were NaN or infinite and count as zero.
    """

    label: str
    version: int
    summary: str
    settings: Mapping[str, Any]
    lost: int = 0

    @property
    def facts(self) -> list[Fact]:
        """Return options and gradients as (name, text)."""
        gradients = [f"gradients {number}" for number in range(1, 1 + len(self.settings.get("gradients", ())))]
        sources = zip(gradients, self.settings.get("gradients", ()), strict=True)
        facts = [("options", self.settings.get("options", {})), *sources]
        lost = [("lost gradients", f"{self.lost} were NaN or infinite and count as zero")] if self.lost else []
        return [("version", str(self.version)), *((name, _pairs(values)) for name, values in facts), *lost]


@dataclass(frozen=True)
class Answers:
    """The answers of methods about pictures, as a page shows them.

    Attributes:
        queries: the pictures that were asked about.
        train: the training set.
        strips: what methods found, each with a title.
        heading: methods and task, what the scores are, and warnings.
        methods: those that answered.
        agreement: of every two methods.
        facts: (name, text) about task, model and data.
        evidence: picture file with a map of where in the query the evidence lies, and what it shows in words; None
            for none.
    """

    queries: Items
    train: Items
    strips: Sequence[Strip]
    heading: Heading
    methods: Sequence[Answered] = ()
    agreement: Sequence[Agreement] = ()
    facts: Sequence[Fact] = ()
    evidence: tuple[bytes, str] | None = None


def attribution_page(answers: Answers) -> bytes:
    """Return a self-contained page with pictures and what methods rank first for each of them, as UTF-8."""
    queries = range(len(answers.queries))
    return page(
        "attribution.html",
        title=tidy(answers.heading.title),
        warnings=list(map(tidy, answers.heading.warnings)),
        question=f"Which training images count for {'this picture' if len(queries) == 1 else 'these pictures'}?",
        asked=f"{_count(len(queries), 'picture')}, {_count(len(answers.train), 'training image')}",
        notes=_notes(answers),
        methods=[(tidy(method.label), tidy(method.summary), _tidied(method.facts)) for method in answers.methods],
        gallery=strips_gallery(answers.queries, answers.train, answers.strips),
        agreement=[_agreement(pair) for pair in answers.agreement],
        depth=max((pair.k for pair in answers.agreement), default=0),
        evidence=answers.evidence and (data_url(answers.evidence[0]), tidy(answers.evidence[1])),
        tables=[(tidy(_title(answers.queries, query)), list(_rows(answers, query))) for query in queries],
        facts=_tidied(answers.facts),
    )


def attribution_fragment(answers: Answers) -> str:
    """Return pictures with what methods rank first for each as HTML without scripts, for a notebook's cell."""
    shown = range(min(len(answers.queries), MOST_IN_NOTEBOOK))
    rows = [(_tile(answers.queries, query, _title(answers.queries, query)), _strips(answers, query)) for query in shown]
    return (
        environment()
        .get_template("attribution_fragment.html")
        .render(
            title=tidy(answers.heading.title),
            summary=tidy(answers.heading.summary),
            notes=_notes(answers),
            warnings=list(map(tidy, answers.heading.warnings)),
            rows=rows,
            more=len(answers.queries) - len(shown),
            css=source("parts.css"),
        )
    )


def _notes(answers: Answers) -> list[str]:
    """Return what a reader must know to read the scores, a sentence or two each."""
    several = len(answers.methods) > 1
    notes = [MEANING_OF_SEVERAL if several else MEANING]
    if several:
        notes.append("Methods that agree may be wrong together: agreement is no evidence of influence.")
    if any(strip.has_copies for strip in answers.strips):
        notes.append("×2: the picture stands for two training images that are nearly the same.")
    return notes


def _strips(answers: Answers, query: int) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Return the title and tiles of each strip for one query."""
    train = answers.train
    return [
        (
            tidy(strip.title),
            [
                _tile(train, item, strip.rank_line(query, place, train.groups[item]))
                for place in strip.places(query)
                for item in [int(strip.ranking.ids[query, place])]
            ],
        )
        for strip in answers.strips
    ]


def _tile(items: Items, item: int, line: str) -> tuple[str, str, str]:
    """Return a picture as a data URL, the line under it, and its file and caption."""
    thumbnail = thumbnail_of(items, item)
    about = ", ".join(filter(None, (thumbnail.name or f"item {item}", thumbnail.caption)))
    return data_url(thumbnail.picture), tidy(line), tidy(about)


def _rows(answers: Answers, query: int) -> Iterator[Cells]:
    """Yield the training items found for a query: (by what, rank, score, item, file, caption, nearly the same)."""
    train = answers.train
    for strip in answers.strips:
        for place in strip.places(query):
            item = int(strip.ranking.ids[query, place])
            copies = () if strip.alike is None else strip.alike[query][place]
            same = ", ".join(f"{strip.ranking.ids[query, other]} (rank {other + 1})" for other in copies)
            about = ", ".join(filter(None, (train.groups[item] and f"group {train.groups[item]}", train.prompts[item])))
            number = float(strip.ranking.scores[query, place])
            score = "" if math.isnan(number) else f"{number:.6g}"
            name = tidy(train.names[item]) if train.names else ""
            yield tidy(strip.title), str(place + 1), score, str(item), name, tidy(about), same


def _agreement(pair: Agreement) -> tuple[str, str, list[str]]:
    """Return two methods and the means of what says how far they agree, as text."""
    means = ["n/a" if value is None else f"{value:.3f}" for value in pair.means().values()]
    return tidy(pair.first), tidy(pair.second), means


def _title(queries: Items, query: int) -> str:
    name, prompt = queries.names[query] if queries.names else "", queries.prompts[query]
    return ": ".join(filter(None, (name or f"picture {query}", prompt if prompt not in name else "")))


def _tidied(facts: Sequence[Fact]) -> list[Fact]:
    return [(tidy(name), tidy(value)) for name, value in facts]


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_value(value)}" for name, value in values.items()) or "none"


def _value(value: object) -> str:
    """Return a JSON value as one writes an option: `true`, `none`, `(kind=cubic, steps=5)`, `999 991`."""
    if isinstance(value, dict):
        return f"({_pairs(value)})"
    if isinstance(value, list):
        return " ".join(map(_value, value))
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
