"""Repositories of the Hugging Face Hub: weights from them, and errors in one line."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from snvideo.errors import SnvideoError
from snvideo.extras import require

log = logging.getLogger(__name__)

PREFIX = "hf:"


def names_repository(source: Path | str) -> bool:
    """True of `hf:USER/NAME` and `hf:USER/NAME@REVISION`, if there is no such file."""
    return str(source).startswith(PREFIX) and not os.path.lexists(source)


def download(source: str, file: str) -> Path:
    """Download a file of a repository, unless that version of it is here already.

    Without network the version that was downloaded last is taken, with a warning.

    Args:
        source: `hf:USER/NAME`, or with a branch, a tag or a commit `hf:USER/NAME@REVISION`.
        file: its name in the repository.

    Raises:
        SnvideoError: if there is no such repository, revision or file, it may not be read, or the
            Hub cannot be reached.
    """
    require("hub", f"weights {source}")
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repo, at, revision = source.removeprefix(PREFIX).partition("@")
    if at and not revision:
        raise SnvideoError(f"{source} names no revision: expected hf:USER/NAME@REVISION")
    wanted = revision or None
    with one_line_errors(source):
        try:
            # A download that finds no network gives an older file silently.
            newest = get_hf_file_metadata(hf_hub_url(repo, file, revision=wanted)).commit_hash
            path = Path(hf_hub_download(repo, file, revision=wanted))
            if path.parent.name != newest:
                raise SnvideoError(f"{source} has changed while it was downloaded: try again")
        except (HfHubHTTPError, HFValidationError, SnvideoError):
            raise
        except Exception as error:  # of the network
            try:
                path = Path(hf_hub_download(repo, file, revision=wanted, local_files_only=True))
            except LocalEntryNotFoundError:
                raise error from None
            why = str(error).strip().partition("\n")[0]
            log.warning("cannot reach the Hub (%s): %s as it was downloaded last", why, source)
    log.info("%s is commit %s", source, path.parent.name)  # as the cache's folders are called
    return path


@contextmanager
def one_line_errors(what: str) -> Iterator[None]:
    """Turn errors of huggingface_hub into one line for the user."""
    from huggingface_hub import constants, errors

    try:
        yield
    except SnvideoError:
        raise
    except Exception as error:
        response = getattr(error, "response", None)
        status = getattr(response, "status_code", None)
        match error:
            case errors.GatedRepoError():
                why = "its owner decides who may read it: ask on its page, then 'hf auth login'"
            case errors.RepositoryNotFoundError():
                why = "there is no such repository, or it is private: see its name, or log in with "
                why += "'hf auth login'"
            case errors.RevisionNotFoundError():
                why = "the repository has no such revision: name a branch, a tag or a commit of it"
            case errors.RemoteEntryNotFoundError():
                why = "the repository has no weights of snvideo, as 'snvideo push' writes them"
            case errors.HFValidationError():
                why = "this is no name of a repository: expected USER/NAME"
            case _ if status in (401, 403):
                why = "the token is not accepted, or may not do this: 'hf auth login' with another"
            case _:
                first = str(error).strip().partition("\n")[0][:200] or type(error).__name__
                why = f"{constants.ENDPOINT} cannot be reached, or fails: {first}"
        raise SnvideoError(f"{what}: {why}") from None
