"""Addresses that a person wrote: local paths, objects in a store of objects, models on a hub."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path

from rayinfluence.text import holds_credentials, without_credentials

#: Schemes of addresses; a local file that begins so is hardly meant.
_SCHEME = re.compile(
    r"(?P<scheme>s3[an]?|gc?s|az|abfss?|adl|wasbs?|r2|oss|hf|https?|file):(?P<rest>.*)",
    re.IGNORECASE | re.DOTALL,
)
#: Schemes of what nothing is read from, and what to do instead.
_ELSEWHERE = {
    "hdfs": "copy it to a disk (`hdfs dfs -get`) or to object storage (`hadoop distcp`)",
    "webhdfs": "copy it to a disk (`hdfs dfs -get`) or to object storage (`hadoop distcp`)",
    "viewfs": "copy it to a disk (`hdfs dfs -get`) or to object storage (`hadoop distcp`)",
    "ftp": "download it",
    "ftps": "download it",
    "sftp": "copy it to a disk (`scp -r`), or mount it (`sshfs`)",
    "ssh": "copy it to a disk (`scp -r`), or mount it (`sshfs`)",
    "scp": "copy it to a disk (`scp -r`), or mount it (`sshfs`)",
    "smb": "mount it",
    "nfs": "mount it",
}
_OTHER = re.compile(rf"(?P<scheme>{'|'.join(_ELSEWHERE)}):/.*", re.IGNORECASE | re.DOTALL)
#: Databricks' file system; what is in it is at a path too, but under another name.
_DBFS = re.compile(r"dbfs:/+(?P<rest>.*)", re.IGNORECASE | re.DOTALL)

#: Of the web and of hubs: what is written and read there goes other ways.
_WEB = ("http", "https", "hf")

#: A repository of a hub and, after an @, its revision.
_ON_A_HUB = re.compile(r"hf://(?P<repository>\w[\w.-]*(/\w[\w.-]*)?)(@(?P<revision>[^\s@?#]+))?")
#: A data set of a hub, its revision, and a path or a glob in it.
_DATASET = re.compile(r"hf://datasets/\w[\w.-]*/\w[\w.-]*(@[^\s@?#/]+)?(/[^\0]*)?")
#: The same as a browser shows it.
_PAGE = re.compile(
    r"https?://(www\.)?(huggingface\.co|hf\.co)/"
    r"(?P<repository>\w[\w.-]*(/\w[\w.-]*)?)(/tree/(?P<revision>[^\s@?#]+?))?/?"
)


@dataclass(frozen=True)
class HubAddress:
    """A model on a hub: its repository, such as ``org/name``, and a branch, tag or commit of it."""

    repository: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"hf://{self.repository}@{self.revision}"

    @property
    def is_commit(self) -> bool:
        """Whether the revision is a whole commit, which never changes."""
        return re.fullmatch("[0-9a-f]{40}", self.revision) is not None


def hub_address(text: str) -> HubAddress | None:
    """The model on a hub that ``hf://org/name@revision`` means; None where it is no such address.

    Without a revision it is the branch ``main``.
    """
    match = _ON_A_HUB.fullmatch(text)
    if match is None:
        return None
    return HubAddress(match["repository"], match["revision"] or "main")


def why_no_model(address: str) -> str | None:
    """Why an address of a model or of a tokenizer cannot be what was meant; None where it can."""
    if hub_address(address) or holds_credentials(address):
        return None
    if page := _PAGE.fullmatch(address):
        revision = f"@{page['revision']}" if page["revision"] else ""
        return f"{address!r} is a page: did you mean hf://{page['repository']}{revision}?"
    scheme, _, rest = address.partition(":")
    if scheme.lower() == "hf":
        meant = f"hf://{rest.lstrip('/')}"
        if meant != address and hub_address(meant):
            return f"{address!r}: did you mean {meant}?"
        return (
            f"{address!r} names no model on a hub: write hf://org/name, or hf://org/name@revision "
            "with a branch, a tag or a commit. Of a model in a folder of a repository, download "
            "the folder and name it."
        )
    return why_no_address(address)


def why_no_documents(address: str) -> str | None:
    """Why documents cannot be at an address, in sentences; None where they may be."""
    if _DATASET.fullmatch(address) and not holds_credentials(address):
        return None
    if address.lower().startswith("hf:"):
        return (
            f"{address!r} names no data set on a hub: write hf://datasets/org/name, "
            "hf://datasets/org/name@revision, or one of these with a path or a glob after it."
        )
    return why_no_address(address)


def why_no_address(address: str) -> str | None:
    """Why a path or an address cannot be what was meant, in sentences; None where it can."""
    if why := _why_elsewhere(address):
        return why
    match = _SCHEME.fullmatch(address)
    is_web = match and match["scheme"].lower() in _WEB and match["rest"].startswith("//")
    # Of what holds a password it is said by who reads configurations that this is no place for it.
    if is_web and not holds_credentials(address):
        return (
            f"{address!r} is on the web, and files are read from disks and "
            "object storage (such as s3://): download it, and name where it is then."
        )
    if match and (why := _why_not_there(match["scheme"], match["rest"], address)):
        return why
    return why_no_path(address.removeprefix("file://"))


def expanded(address: str) -> str:
    """An address with the home that it begins with (``~``) written out, and a local one as a path.

    A home that is not there stays, which :func:`why_no_address` tells.
    """
    path = address.removeprefix("file://")
    if "://" in path:
        return address
    with contextlib.suppress(RuntimeError):
        # No other path is changed, as patterns are that mean folders by their last slash.
        return str(Path(path).expanduser()) if path.startswith("~") else path
    return path


def is_relative(address: str) -> bool:
    """Whether it is a path, or a pattern, from some folder that it does not say itself."""
    path = address.lstrip("{")  # braces of a pattern, whose first alternative tells
    is_address = "://" in path or any(one.fullmatch(path) for one in (_SCHEME, _OTHER, _DBFS))
    return bool(path.strip()) and not path.startswith(("/", "~")) and not is_address


def why_no_folder(path: str) -> str | None:
    """Why models and tokenizers cannot be read from an address, as a clause; None where they may.

    They are read from folders of this machine: transformers takes any other text for a name on a
    hub, and asks the network.
    """
    if "://" in path:
        return (
            f"{path} is an address, and models and tokenizers are read from local folders: copy it "
            "to a disk of the machine that runs this, and name the folder's path. What is on a hub "
            "is fetched: hf://org/name."
        )
    return None


def may_be_on_a_hub(path: str) -> bool:
    """Whether a path looks as names of models on a hub do, such as ``gpt2`` or ``meta/llama``."""
    return re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", path) is not None


def why_no_path(path: str) -> str | None:
    """Why a path is none: a character that no path has, or a home (``~user``) that is not there."""
    if "\0" in path:
        shown = without_credentials(repr(path))
        return f"{shown} holds a NUL character, which no path or address has; take it out."
    try:
        Path(path).expanduser()
    except RuntimeError:
        return (
            f"{path!r} is in the home of a user whom this machine does not know "
            f"({path.partition('/')[0]}); write the whole path."
        )
    return None


def _why_elsewhere(address: str) -> str | None:
    """Why nothing is read from where an address is, whatever it names there."""
    if holds_credentials(address):
        return None
    if other := _OTHER.fullmatch(address):
        return (
            f"{address!r} is on {other['scheme'].lower()}://, and files are read from disks and "
            f"object storage (such as s3://): {_ELSEWHERE[other['scheme'].lower()]}, and name "
            "where it is then."
        )
    if found := _DBFS.fullmatch(address):
        # What Databricks shows under dbfs:/Volumes is not below the mount of the rest.
        rest = found["rest"]
        path = f"/{rest}" if rest.startswith("Volumes/") else f"/dbfs/{rest}"
        return f"{address!r} is no path of this machine: did you mean {path}?"
    return None


def _why_not_there(scheme: str, rest: str, address: str) -> str | None:
    """Why what follows a scheme does not say where something is."""
    scheme, place = scheme.lower(), rest.lstrip("/")
    if not place:
        example = "/folder" if scheme == "file" else f"{scheme}://bucket/folder"
        return f"{address!r} names nothing; write where it is, such as {example}."
    if scheme == "file":
        # Of a local file, the slashes at its beginning belong to the path.
        meant = rest if not rest.startswith("//") else None
    else:
        meant = f"{scheme}://{place}"
    if meant is None or meant == address:
        return None
    # Without its ://, an address that a password is in would be shown whole.
    shown = without_credentials(meant)
    return f"{address!r}: did you mean {meant}?" if shown == meant else f"did you mean {shown}?"
