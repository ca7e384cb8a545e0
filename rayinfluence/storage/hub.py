"""Models on a hub: which commit a revision is, what it holds, and its files on this machine.

huggingface_hub fetches into its cache, and is told by the environment where that and the hub are
(HF_HOME, HF_ENDPOINT), who asks (HF_TOKEN) and whether it may ask at all (HF_HUB_OFFLINE). It reads
these when it is imported. Of its errors, which are of a dozen kinds, sentences are made here.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayinfluence.addresses import HubAddress
from rayinfluence.errors import ModelError, RayInfluenceError, StorageError, brief
from rayinfluence.storage.retry import chain, http_status, retrying
from rayinfluence.text import in_bytes, without_credentials

#: Prints a line.
Say = Callable[[str], None]

#: Seconds in which a hub has to answer a question.
_ANSWERS = 30.0
#: Files that tell which commit of a repository is in the cache.
_KNOWN_BY = ("config.json", "tokenizer.json", "tokenizer_config.json")
#: Names of files in a line.
_NAMED = 4
#: That a file came is said of those that take a while.
_LARGE = 2**26
#: Who logs what is asked for again.
_LOGGERS = ("file_download", "utils._http")
_REFUSED, _TOO_MANY = (401, 403), 429


@dataclass(frozen=True)
class HubFile:
    """A file of a repository, as the hub describes it; mirrors may leave all of it out.

    Attributes:
        size: in bytes.
        sha256: of its bytes, where the hub keeps it as a large file.
        blob: git's name of its content, where it does not.
    """

    size: int | None = None
    sha256: str | None = None
    blob: str | None = None


@dataclass(frozen=True)
class Snapshot:
    """A repository at one commit.

    Attributes:
        address: as it was asked for.
        commit: that is meant.
        files: by name; where the hub was not asked, those in the cache.
        cached: the folder in the cache where the hub was not asked; None where it was.
    """

    address: HubAddress
    commit: str
    files: Mapping[str, HubFile]
    cached: Path | None = None


def find(address: HubAddress, commit: str | None = None) -> Snapshot:
    """Ask the hub which commit a revision is, and what it holds.

    Where the hub may not be asked (HF_HUB_OFFLINE), it is what the cache has of it.

    Args:
        address: of the model.
        commit: what to take, whatever the revision is by now. It never changes, so the cache does
            where the hub cannot be reached or has it no more.

    Raises:
        ModelError: the hub has no such repository or revision, or does not show it.
        StorageError: the hub cannot be reached, or may not be asked and the cache lacks it.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    wanted = HubAddress(address.repository, commit or address.revision)

    def ask() -> Any:
        try:
            return HfApi().model_info(
                wanted.repository, revision=wanted.revision, files_metadata=True, timeout=_ANSWERS
            )
        except OfflineModeIsEnabled:
            return None

    try:
        with _said(wanted):
            found = retrying(ask, str(wanted))
    except (ModelError, StorageError):
        if not wanted.is_commit or _folder(wanted) is None:
            raise
        found = None
    if found is None:
        return _cached(address, wanted)
    files = {one.rfilename: _described(one) for one in found.siblings or ()}
    return Snapshot(address, str(found.sha), files)


def fetch(snapshot: Snapshot, names: Collection[str], say: Say, check: bool = False) -> Path:
    """Have files of a snapshot on this machine's disk; those that are in the cache stay there.

    Each that comes is compared with the digest that the hub has of it.

    Args:
        snapshot: what :func:`find` found.
        names: of the files, one at least.
        say: prints what is about to be fetched, and what came.
        check: compare those in the cache, too.

    Returns:
        The folder of the snapshot.

    Raises:
        ModelError: the hub does not give them to who asks.
        StorageError: they do not come, or damaged, or there is no room for them.
    """
    if snapshot.cached is not None:
        return snapshot.cached
    wanted = missing(snapshot, names)
    if wanted:
        sizes = [snapshot.files[name].size for name in wanted]
        _refuse_no_room(snapshot.address, size := sum(filter(None, sizes)))
        known = "" if None in sizes else f": {in_bytes(size)}"
        more = f" and {len(wanted) - _NAMED} more" if len(wanted) > _NAMED else ""
        say(f"hub          fetching {', '.join(wanted[:_NAMED])}{more}{known}")
    for name in names:
        path = _fetched(snapshot.address, name, snapshot.commit)
        if check or name in wanted:
            _refuse_damaged(snapshot, name, path)
        if name in wanted and (snapshot.files[name].size or 0) >= _LARGE:
            say(f"hub          {name} is there")
    return path.parents[len(Path(name).parts) - 1]


def missing(snapshot: Snapshot, names: Collection[str]) -> list[str]:
    """Which of some files are not in the cache."""
    from huggingface_hub import try_to_load_from_cache

    repository, commit = snapshot.address.repository, snapshot.commit
    return [
        name
        for name in names
        if not isinstance(try_to_load_from_cache(repository, name, revision=commit), str)
    ]


def refuse_part(snapshot: Snapshot, lacking: str) -> None:
    """Refuse what the cache holds in part, where no hub was asked for the rest.

    Args:
        snapshot: of a model; one that a hub gave is whole.
        lacking: what it has not, in words.

    Raises:
        StorageError: no hub was asked.
    """
    if snapshot.cached is not None:
        whole = HubAddress(snapshot.address.repository, snapshot.commit)
        raise StorageError(
            f"{snapshot.address}: {cache()} holds a part of commit {snapshot.commit}, "
            f"without {lacking}, and no hub gave the rest. Unset HF_HUB_OFFLINE if it is set, or "
            f"fetch the model where a hub may be asked ({_download(whole)}) and copy that folder."
        )


def remember(snapshot: Snapshot) -> None:
    """Leave in the cache which commit a branch or a tag is, for when the hub may not be asked."""
    address = snapshot.address
    known = [name for name in _KNOWN_BY if name in snapshot.files]
    folder = _folder(address)
    if snapshot.cached is None and known and (folder is None or folder.name != snapshot.commit):
        _fetched(address, known[0], address.revision)


def endpoint() -> str:
    """The hub that is asked."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def cache() -> str:
    """The folder that is fetched into."""
    from huggingface_hub import constants

    return str(constants.HF_HUB_CACHE)


def _fetched(address: HubAddress, name: str, revision: str) -> Path:
    from huggingface_hub import hf_hub_download

    with _said(address):
        return Path(hf_hub_download(address.repository, name, revision=revision))


def _described(sibling: Any) -> HubFile:
    large = sibling.lfs
    return HubFile(sibling.size, large.sha256 if large else None, sibling.blob_id)


def _folder(address: HubAddress) -> Path | None:
    """Where the cache has a revision, if it has it."""
    from huggingface_hub import try_to_load_from_cache

    repository, revision = address.repository, address.revision
    found = (try_to_load_from_cache(repository, name, revision=revision) for name in _KNOWN_BY)
    return next((Path(path).parent for path in found if isinstance(path, str)), None)


def _cached(address: HubAddress, wanted: HubAddress) -> Snapshot:
    """What the cache has of a revision that stands for the address.

    Raises:
        StorageError: nothing.
    """
    folder = _folder(wanted)
    if folder is None:
        raise StorageError(
            f"{wanted}: HF_HUB_OFFLINE is set, so no hub is asked, and {cache()} does not hold "
            f"this revision. Unset it, or fetch the model where a hub may be asked "
            f"({_download(wanted)}) and copy that folder."
        )
    files = {
        path.relative_to(folder).as_posix(): HubFile(path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    return Snapshot(address, folder.name, files, folder)


def _download(address: HubAddress, options: str = "") -> str:
    return f"`hf download {address.repository} --revision {address.revision}{options}`"


def _refuse_no_room(address: HubAddress, needed: int) -> None:
    place = Path(cache())
    there = next(folder for folder in (place, *place.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise StorageError(
            f"{address} takes {in_bytes(needed)} more in {place}, and that disk has "
            f"{in_bytes(free)} left. Make room there, or set HF_HOME to a folder on another."
        )


def _refuse_damaged(snapshot: Snapshot, name: str, path: Path) -> None:
    """Refuse a file that is not what the hub says it is, and take it out of the cache.

    Raises:
        StorageError: what differs.
    """
    described, size = snapshot.files[name], path.stat().st_size
    state, wanted = hashlib.sha256(), described.sha256
    if wanted is None:
        state, wanted = hashlib.sha1(usedforsecurity=False), described.blob
        state.update(b"blob %d\0" % size)
    with path.open("rb") as file:
        hashlib.file_digest(file, lambda: state)
    same_size = described.size in (None, size)
    if same_size and wanted in (None, state.hexdigest()):
        return
    blob = path.resolve()
    path.unlink()
    blob.unlink(missing_ok=True)
    differs = "other bytes" if same_size else f"another size ({size:,} bytes)"
    raise StorageError(
        f"{snapshot.address}: {name} came with {differs} than the hub at {endpoint()} says, so it "
        "was thrown away. Run the same command again; if it comes so again, something on its way "
        "(a proxy, a mirror) alters it."
    )


@contextmanager
def _said(address: HubAddress) -> Iterator[None]:
    """Where the hub is asked: errors are sentences, and no line of a log holds a secret."""
    try:
        with _discreet():
            yield
    except RayInfluenceError:
        raise
    except Exception as error:  # of huggingface_hub, of its HTTP client, of the disk
        raise _error(address, error) from error


@contextmanager
def _discreet() -> Iterator[None]:
    """Addresses that large files come from are signed: whoever has one may fetch the file."""

    def hide(record: logging.LogRecord) -> bool:
        record.msg, record.args = without_credentials(record.getMessage()), ()
        return True

    loggers = [logging.getLogger(f"huggingface_hub.{name}") for name in _LOGGERS]
    for logger in loggers:
        logger.addFilter(hide)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(hide)


def _error(address: HubAddress, error: Exception) -> RayInfluenceError:
    from huggingface_hub import errors, get_token

    hub, page = endpoint(), f"{endpoint()}/{address.repository}"
    token = "with the token of HF_TOKEN or `hf auth login`" if get_token() else "without a token"
    if isinstance(error, errors.GatedRepoError):
        return ModelError(
            f"{address}: its files are given to those whom its owners let in, and not {token}. Ask "
            f"for them at {page}, and set HF_TOKEN to a token of the account that was let in."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return ModelError(
            f"{address}: the hub at {hub} has no model {address.repository}, or does not show it "
            f"{token}. Check the name; for a private one set HF_TOKEN."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelError(
            f"{address}: {address.repository} has no revision {address.revision}. Name a branch, a "
            f"tag or a whole commit, as {page}/commits/main shows them."
        )
    if isinstance(error, errors.HFValidationError):
        return ModelError(f"{address} names no repository that there may be: {brief(error)}")
    status = http_status(error)
    if status in _REFUSED:
        return ModelError(
            f"{address}: the hub at {hub} refuses it {token} ({status}). Set HF_TOKEN to a token "
            "that may read it."
        )
    if status == _TOO_MANY:
        return StorageError(
            f"{address}: the hub at {hub} takes no more requests for now ({status}). Run the same "
            "command again later; with a token (HF_TOKEN) it takes more."
        )
    if status is not None:
        return StorageError(
            f"{address}: the hub at {hub} answers {status}. Run the same command again later, or "
            "set HF_ENDPOINT to another hub."
        )
    inner = [*chain(error)][-1]
    why = f"{brief(inner).rstrip('.')} ({type(inner).__name__})"
    return StorageError(
        f"{address} cannot be fetched from {hub}: {why}. Check the network, HF_ENDPOINT and the "
        "disk, and run the same command again: files that came whole are kept. Or fetch it where "
        f"the hub is reached ({_download(address, ' --local-dir FOLDER')}), and name that folder."
    )
