"""Addresses that a person wrote: local paths, and objects in a store of objects."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from rayinfluence.text import holds_credentials, without_credentials

#: Schemes of addresses; a local file that begins so is hardly meant.
_SCHEME = re.compile(
    r"(?P<scheme>s3[an]?|gc?s|az|abfss?|adl|wasbs?|r2|oss|hdfs|hf|https?|file):(?P<rest>.*)",
    re.IGNORECASE | re.DOTALL,
)


#: Of the web and of hubs, from which nothing is read.
_WEB = ("http", "https", "hf")


def why_no_address(address: str) -> str | None:
    """Why a path or an address cannot be what was meant, in sentences; None where it can."""
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


def why_no_folder(path: str) -> str | None:
    """Why models and tokenizers cannot be read from an address, as a clause; None where they may.

    They are read from folders of this machine: transformers takes any other text for a name on a
    hub, and asks the network.
    """
    if "://" in path:
        return (
            f"{path} is an address, and models and tokenizers are read from local folders: copy it "
            "to a disk of the machine that runs this, and name the folder's path."
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
