"""Addresses that a person wrote: local paths, and objects in a store of objects."""

from __future__ import annotations

import re
from pathlib import Path

from rayinfluence.text import without_credentials

#: Schemes of addresses; a local file that begins so is hardly meant.
_SCHEME = re.compile(
    r"(?P<scheme>s3[an]?|gc?s|az|abfss?|adl|wasbs?|r2|oss|hdfs|hf|https?|file):(?P<rest>.*)",
    re.IGNORECASE | re.DOTALL,
)


def why_no_address(address: str) -> str | None:
    """Why a path or an address cannot be what was meant, in sentences; None where it can."""
    match = _SCHEME.fullmatch(address)
    if match and (why := _why_not_there(match["scheme"], match["rest"], address)):
        return why
    return why_no_path(address.removeprefix("file://"))


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
