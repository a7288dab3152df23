"""Conformance checks of a task's training set and queries: arrays and lists, groups, prompts, seeds, main metric."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

from attrbench.conformance.check_report import Finding, failed, passed, skipped
from attrbench.conformance.checked_task import TaskSubject
from attrbench.contracts.ground_truth import TruthSetting
from attrbench.contracts.metric import MAX_DEPTH, Outcome
from attrbench.contracts.task import Items, pixel_digest
from attrbench.evaluation.breaches import Breach, items_breach
from attrbench.evaluation.ground_truth_step import open_ground_truths, request_ground_truths
from attrbench.evaluation.score import metric_results, shared_groups
from attrbench.taskfile.names import is_file

LOOKED_AT = 1000
"""Images of a split whose pixels are looked at, evenly spread."""


def items(subject: TaskSubject) -> Finding:
    """Check the arrays and lists of training set and queries: kind and size of images, one label for each."""
    check = "items"
    for what, split in (("training set", subject.train), ("queries", subject.queries)):
        breach = items_breach(split, what) or _content_breach(split, what, subject.denoiser.image_shape)
        if breach is not None:
            return failed(check, breach.found, breach.advice)
    promised, found = subject.request.task.meta.train_items, len(subject.train)
    if promised not in (None, found):
        return failed(check, f"meta promises {promised} training items, there are {found}", "set meta.train_items")
    shape = "x".join(map(str, subject.train.images.shape[1:]))
    return passed(check, f"{found} training items and {len(subject.queries)} queries, uint8 {shape}, a label for each")


def _content_breach(split: Items, what: str, image_shape: Sequence[int]) -> Breach | None:
    """Return what is wrong with a split whose lists are complete: sizes, range of pixels, kinds of labels, digests."""
    if not len(split):
        return Breach(f"its {what} has no items", "give it some")
    if list(split.images.shape[1:]) != list(image_shape):
        return Breach(
            f"images of its {what} are {list(split.images.shape[1:])}, the model's image_shape is {list(image_shape)}",
            "give the images as large as the model takes and draws them",
        )
    places = np.unique(np.linspace(0, len(split) - 1, min(LOOKED_AT, len(split))).astype(int))
    images = np.asarray(split.images[places])
    if images.max() <= 1:
        return Breach(
            f"no pixel of {len(places)} images of its {what} is above {images.max()}",
            "give values from 0 to 255; cast to uint8 after scaling to them, not while they are in [0, 1]",
        )
    if not isinstance(split.fingerprint, str) or not split.fingerprint:
        return Breach(f"the fingerprint of its {what} is {split.fingerprint!r}", "hash images, groups and prompts")
    for name, given in (("group", split.groups), ("prompt", split.prompts), ("name", split.names)):
        wrong = next((label for label in given if not isinstance(label, str)), None)
        if wrong is not None:
            kind = type(wrong).__name__
            return Breach(f"a {name} of its {what} is {wrong!r} ({kind})", "give text, an empty string for none")
    if split.digests and any(split.digests[i] != pixel_digest(image) for i, image in zip(places, images, strict=True)):
        return Breach(f"digests of its {what} are not those of its images", "leave them out, or use pixel_digest")
    return None


def groups(subject: TaskSubject) -> Finding:
    """Check that every query's group can be found among the training items, and does not hold all of them."""
    check, train, queries = "groups", subject.train, subject.queries
    lacking = sum(not group for group in queries.groups)
    if lacking == len(queries):
        return skipped(check, "no query has a group: rankings only")
    if not any(train.groups) or lacking:
        where = f"{lacking} of {len(queries)} queries have" if any(train.groups) else "the training items have"
        return failed(
            check,
            f"{where} no group, so no metric compares groups for any query",
            "give each query a group, and the training items that it should find; or no query one",
        )
    sizes = Counter(train.groups)
    unknown = [index for index, group in enumerate(queries.groups) if group not in sizes]
    if unknown:
        group = queries.groups[unknown[0]]
        return failed(
            check,
            f"{len(unknown)} queries are of a group that no training item is of: query {unknown[0]}, {group!r}",
            "write the groups of queries and training items alike, or leave these queries out",
        )
    if all(sizes[group] == len(train) for group in queries.groups):
        return failed(
            check,
            "all training items are of the group of every query, so any ranking is perfect",
            "give groups that tell training items apart",
        )
    return passed(check, f"{len(sizes)} groups of {min(sizes.values())} to {max(sizes.values())} training items")


def prompts(subject: TaskSubject) -> Finding:
    """Check that only items of a model with prompts have prompts, since prompts decide noise and stored rows."""
    check, denoiser = "prompts", subject.denoiser
    for what, split in (("training items", subject.train), ("queries", subject.queries)):
        given = [prompt for prompt in split.prompts if prompt]
        if given and not denoiser.takes_prompts:
            if is_file(subject.request.spec.name):
                return skipped(check, f"{len(given)} {what} have captions in their files, and its model takes none")
            return failed(
                check,
                f"{len(given)} {what} have prompts, such as {given[0][:40]!r}, and its model takes none",
                "give empty strings, or set takes_prompts: noise and rows are kept by pixels and prompt",
            )
    if not denoiser.takes_prompts:
        return passed(check, "its model takes none, and there are none")
    told = [len([prompt for prompt in split.prompts if prompt]) for split in (subject.train, subject.queries)]
    cut = len(denoiser.truncated(subject.train.prompts))
    return passed(check, f"of {told[0]} training items and {told[1]} queries; {cut} too long for its text encoders")


def seeds(subject: TaskSubject) -> Finding:
    """Check that no query comes twice: the same prompt and seed, or the same picture, would count double."""
    check, queries = "seeds", subject.queries
    pictures = [pixel_digest(image) for image in queries.images]
    drawn = [] if queries.seeds is None else list(zip(queries.prompts, queries.seeds, strict=True))
    named: tuple[tuple[str, Sequence[Hashable]], ...] = (
        ("one prompt and seed", drawn),
        ("one picture", list(zip(queries.prompts, pictures, strict=True))),
    )
    for what, values in named:
        value, times = Counter(values).most_common(1)[0] if values else (None, 1)
        if times > 1:
            places = ", ".join(str(place) for place, other in enumerate(values) if other == value)
            return failed(
                check, f"queries {places} are of {what}", "give each query a seed of its own, and each picture once"
            )
    told = "without seeds" if queries.seeds is None else "a prompt and seed of its own"
    return passed(check, f"{len(queries)} different queries, {told}")


def main_metric(subject: TaskSubject) -> Finding:
    """Check that the metric that is to rank the leaderboard gives a value for this task."""
    check, wanted = "main-metric", subject.request.task.meta.main_metric
    names = {result.name for result in metric_results(subject.registry, _outcome(subject), 0, lambda line: None)}
    if wanted in names:
        return passed(check, f"{wanted} has a value")
    if wanted.partition("@")[0] in subject.registry.names("metric"):
        if is_file(subject.request.spec.name) and not any(subject.queries.groups):
            return skipped(check, f"{wanted} compares groups, which no query has: rankings only")
        return failed(
            check,
            f"{wanted} gives no value for these groups and items; {', '.join(sorted(names)) or 'no metric'} does",
            "give the queries and training items groups, or set meta.main_metric",
        )
    setting = TruthSetting(subject.request.task, subject.opened, subject.workspace)
    truths = open_ground_truths(request_ground_truths(subject.registry, ()), (), setting, False, lambda line: None)
    applying = sorted({*truths.left_out, *truths.unavailable})
    if not applying:
        return failed(
            check,
            f"{wanted} is no registered metric, and no ground truth applies to the task",
            "name a metric of 'attrbench list metrics' in meta.main_metric, with @5, @10, ... where it has cut-offs",
        )
    return passed(check, f"{wanted} is left to the ground truths that apply: {', '.join(applying)}")


def _outcome(subject: TaskSubject) -> Outcome:
    """Return the outcome of a made-up method that scores training items by their index."""
    train, queries = subject.train, subject.queries
    count, asked = len(train), len(queries)
    has_groups = any(train.groups) and all(queries.groups)
    ranked = np.tile(np.arange(min(MAX_DEPTH, count)), (asked, 1))
    scores = np.tile(-np.arange(count, dtype=np.float32), (asked, 1))
    return Outcome(ranked, shared_groups(queries.groups, train.groups) if has_groups else None, scores)
