"""Answers of attribution as JSON values: one document for a question, or one line for each of thousands of queries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from attrbench.contracts.task import Items
from attrbench.evaluation.attribution import Attribution, Attributions
from attrbench.evaluation.attribution_parts import Subject
from attrbench.metrics.agreement import Agreement
from attrbench.version import __version__


def document(answers: Attributions, sheets: Sequence[Path], notes: Sequence[str]) -> dict[str, Any]:
    """Return all answers to a question, with the warnings that the terminal shows.

    With one method each query has its `ranking`; with several, `methods` with one for each, by label.

    Args:
        answers: of the methods.
        sheets: files of the contact sheet.
        notes: what else the terminal says.
    """
    alone = answers[0] if len(answers) == 1 else None
    return {
        **({} if alone is None else {"method": alone.method, "summary": alone.summary}),
        "task": answers.subject.task,
        "warnings": answers.warnings,
        "notes": list(notes),
        **({} if alone is None else {"nonfinite": [list(lost) for lost in alone.nonfinite]}),
        "sheet": str(sheets[0]),
        "sheets": [str(sheet) for sheet in sheets],
        "queries": [_query(answers, query) for query in range(len(answers.queries))],
        "attrbench": __version__,
        **_subject(answers.subject, answers.queries),
        "methods": [_method(answer) for answer in answers],
        "agreement": [_agreement(pair) | pair.means() for pair in answers.agreement],
    }


def lines(answers: Attributions) -> Iterator[dict[str, Any]]:
    """Yield the answers of a block, a value for each query that stands for itself, in the order of the question.

    Each has the query's `number`; one that could not be read has an `error` instead of a ranking.
    """
    place = {number: query for query, number in enumerate(answers.block.numbers)}
    about = {"attrbench": __version__, **_subject(answers.subject, answers.queries)}
    versions = {answer.method: answer.method_version for answer in answers}
    alone = {"method": answers[0].method} if len(answers) == 1 else {}
    for number in range(answers.block.first, answers.block.first + answers.block.size):
        start = {"number": number, **alone, "task": answers.subject.task}
        if number in answers.block.unread:
            name, reason = answers.block.unread[number]
            yield {**start, "name": name, "error": reason}
            continue
        query = place[number]
        lost = {tuple(entry) for answer in answers for entry in answer.nonfinite if entry[:2] == ("query", query)}
        line = {**start, **_query(answers, query), "versions": versions, **about}
        line["nonfinite"] = sorted(["query", number, timestep] for _, _, timestep in lost)
        if answers.agreement:
            line["agreement"] = [_agreement(pair) | pair.of_query(query) for pair in answers.agreement]
        yield line


def query_errors(answers: Attributions) -> int:
    """Return the number of queries of a block that have no ranking by some method, or could not be read."""
    faulty = {query for answer in answers for query in answer.faults}
    return len(faulty) + len(answers.block.unread)


def _subject(subject: Subject, queries: Items) -> dict[str, Any]:
    return {
        **({"checkpoint": subject.checkpoint} if subject.checkpoint else {}),
        "fingerprints": {**subject.fingerprints, "queries": queries.fingerprint},
        "left_out": dict(subject.left_out),
    }


def _method(answer: Attribution) -> dict[str, Any]:
    return {
        "method": answer.method,
        "version": answer.method_version,
        "summary": answer.summary,
        **answer.settings,
        "nonfinite": [list(lost) for lost in answer.nonfinite],
        "scores_all_items": answer.scores is not None,
    }


def _agreement(pair: Agreement) -> dict[str, Any]:
    return {"methods": [pair.first, pair.second], "k": pair.k}


def _query(answers: Attributions, query: int) -> dict[str, Any]:
    """Return a query with what the methods found for it."""
    queries = answers.queries
    found = {answer.method: _found(answer, query) for answer in answers}
    return {
        "name": queries.names[query],
        "prompt": queries.prompts[query],
        "fingerprint": queries.keys[query],
        **(next(iter(found.values())) if len(found) == 1 else {"methods": found}),
    }


def _found(answer: Attribution, query: int) -> dict[str, Any]:
    """Return one method's ranking for a query, the lowest scores where they were wanted, and why there is none."""
    return {
        "ranking": answer.item_rows(query),
        **({"lowest": answer.item_rows(query, lowest=True)} if answer.wants_lowest and answer.lowest else {}),
        **({"error": answer.faults[query]} if query in answer.faults else {}),
    }
