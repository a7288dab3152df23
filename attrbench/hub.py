"""Access to the Hugging Face hub: downloading model files, working offline, and errors for what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from attrbench.errors import AttrbenchError

HUB_SECONDS = 5.0
"""How long the hub has for its first answer."""


@contextmanager
def hub_or_cache() -> Iterator[bool]:
    """Make huggingface_hub use only its local cache inside the `with` block if the hub does not respond.

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
    """Return whether a model or data set name must be a local path, because it can't be a hub id (OWNER/NAME)."""
    return name.startswith(("/", ".", "~")) or "\\" in name or name.count("/") != 1


def snapshot(
    option: str, repository: str, revision: str | None, allow: Sequence[str], ignore: Sequence[str] = ()
) -> Path:
    """Return the local folder with the files of a hub model repository, downloaded if they are not in the cache.

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
