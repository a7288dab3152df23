"""The Hugging Face hub: what is asked of it, and what is said where it does not answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from attrbench.errors import AttrbenchError

HUB_SECONDS = 5.0
"""How long the hub has for its first answer."""


@contextmanager
def hub_or_cache() -> Iterator[bool]:
    """Keeps huggingface_hub to its cache where the hub does not answer: its client would ask six times, for a minute.

    Yields:
        Whether the hub answers.
    """
    from huggingface_hub import constants, get_session  # heavy, and tasks are listed without

    before = constants.HF_HUB_OFFLINE
    try:
        if not before:
            try:
                get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)
            except Exception:  # which one depends on the HTTP library; all mean the same
                constants.HF_HUB_OFFLINE = True
        yield not constants.HF_HUB_OFFLINE
    finally:
        constants.HF_HUB_OFFLINE = before


def is_local(name: str) -> bool:
    """Return whether a name can't be an id on the hub, and so means a path."""
    return name.startswith(("/", ".", "~")) or "\\" in name or name.count("/") != 1


def snapshot(
    option: str, repository: str, revision: str | None, allow: Sequence[str], ignore: Sequence[str] = ()
) -> Path:
    """The local folder with files of a model repository, from the cache or downloaded into it.

    Args:
        option: which option of a task names the repository, such as `model`; for the error's text.
        repository: its id.
        revision: branch, tag or commit; the default branch where None.
        allow: patterns of the files.
        ignore: patterns of files that are left out all the same.

    Raises:
        AttrbenchError: where there is no such repository or revision, it is gated, or it is neither in the cache nor
            within reach.
    """
    from huggingface_hub import errors, snapshot_download  # heavy, as above

    instead = f"give a local path with {option}=PATH"
    page = f"https://huggingface.co/{repository}"
    with hub_or_cache() as answers:
        try:
            return Path(
                snapshot_download(
                    repository, revision=revision, allow_patterns=list(allow), ignore_patterns=list(ignore) or None
                )
            )
        except errors.GatedRepoError:
            raise AttrbenchError(
                f"{option} {repository} is gated: accept its license at {page}, log in with `hf auth login` and run"
                f" again; or {instead}"
            ) from None
        except errors.RevisionNotFoundError:
            raise AttrbenchError(f"{option} {repository} has no revision {revision}: see {page}/tree/main") from None
        except errors.RepositoryNotFoundError:
            raise AttrbenchError(
                f"{option} {repository}: the hub has no such repository, or it is private: check the id, log in with"
                f" `hf auth login`, or {instead}"
            ) from None
        except errors.HFValidationError:
            raise AttrbenchError(f"{option} {repository} is no id of the hub, nor is there such a folder") from None
        except Exception as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            if status in (401, 403):
                raise AttrbenchError(
                    f"{option} {repository}: the hub refuses access ({status}): accept the license at {page}, log in"
                    f" with `hf auth login` and run again; or {instead}"
                ) from None
            why = "the Hugging Face hub can't be reached"
            if answers:
                why = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise AttrbenchError(f"{option} {repository} is not in the cache and {why}: {instead}") from None
