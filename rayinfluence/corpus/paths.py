"""What the address of a file says of its documents: partitions, parts that are named, and globs.

And what tells it from other files.

A glob is held against the end of an address, in whole parts: ``*.csv`` are all such files, and
``books/*.csv`` those in a folder ``books``, wherever that is. ``*`` and ``?`` stand for characters
of one part, ``**`` for any number of parts, ``[...]`` for one of some characters, and ``[!...]`` or
``[^...]`` for one of all others. In a pattern of columns ``{name}`` stands for some characters of
one part, as few as will do.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from urllib.parse import unquote

#: A folder ``key=value``, as Hive, Spark and Arrow name partitions, and what they write for null.
_PARTITION = re.compile(r"([^=/]+)=([^/]*)")
_NULL = "__HIVE_DEFAULT_PARTITION__"
_WHOLE_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,17}")
_PIECE = re.compile(r"\*\*/|\*\*|\*|\?|\[[!^]?\]?[^\]/]*\]|\{([^{}/]*)\}|.", re.DOTALL)
#: Between brackets: characters from one to another, or one.
_OF_A_CLASS = re.compile("(.)-(.)|(.)", re.DOTALL)


def partitions(url: str) -> dict[str, str | int]:
    """The columns that the folders of an address name: ``lang=en/year=2024/part-0.parquet``.

    A value that is written as a whole number is one, so that ``year=2024`` is found as 2024.
    """
    folders = url.rpartition("/")[0].split("/")
    found = [match for folder in folders if (match := _PARTITION.fullmatch(folder))]
    return {
        unquote(key): typed(unquote(value))
        for key, value in (match.groups() for match in found)
        if value != _NULL
    }


def named_parts(url: str, pattern: str) -> dict[str, str | int] | None:
    """The columns that the end of an address has by a pattern; None where it is not of that form.

    Args:
        url: of a file.
        pattern: as :func:`why_no_pattern` passes.
    """
    found = _compiled(pattern).fullmatch(url)
    if found is None:
        return None
    names = _names(pattern)
    return {name: typed(value) for name, value in zip(names, found.groups(), strict=True)}


def columns_of_path(url: str, pattern: str | None) -> dict[str, str | int]:
    """All columns that an address has: of its partitions, and of a pattern where there is one."""
    named = None if pattern is None else named_parts(url, pattern)
    return {**partitions(url), **(named or {})}


def matches(url: str, pattern: str) -> bool:
    """Whether an address ends as a glob says."""
    return _compiled(pattern).fullmatch(url) is not None


def why_no_pattern(pattern: str) -> str | None:
    """Why a pattern names no columns, as a sentence; None where it does."""
    names = _names(pattern)
    if twice := next((name for name in names if names.count(name) > 1), None):
        return f"{pattern!r} names {twice!r} twice; give each part a name of its own."
    if not names or not all(name.strip() for name in names):
        return (
            f"{pattern!r} names no column: write {{name}} for the part of an address that is one, "
            "as in '{author}_{title}/*.jsonl'."
        )
    rest = re.sub(r"\{[^{}/]*\}", "", pattern)
    if "{" in rest or "}" in rest:
        return f"{pattern!r} has a brace that is not closed, or with a slash or a brace in it."
    return why_no_glob(pattern)


def why_no_glob(pattern: str) -> str | None:
    """Why a pattern can hold for no address, as a sentence; None where it may."""
    try:
        _compiled(pattern)
    except re.error as error:
        return f"{pattern!r} is no glob: {error}."
    return None


def tails(urls: Sequence[str]) -> list[str]:
    """The shortest ends of addresses, in whole parts, that are different from each other."""
    parts = [url.split("://")[-1].strip("/").split("/") for url in urls]
    lengths = [1] * len(urls)
    while True:
        ends = ["/".join(part[-n:]) for part, n in zip(parts, lengths, strict=True)]
        counts = Counter(ends)
        longer = [
            place
            for place, end in enumerate(ends)
            if counts[end] > 1 and lengths[place] < len(parts[place])
        ]
        if not longer:
            return ends
        for place in longer:
            lengths[place] += 1


def typed(value: str) -> str | int:
    """A value in an address: a whole number where it is written as one, else the text."""
    return int(value) if _WHOLE_NUMBER.fullmatch(value) else value


def _names(pattern: str) -> Sequence[str]:
    return [match[1] for match in _PIECE.finditer(pattern) if match[1] is not None]


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    pieces = []
    for match in _PIECE.finditer(pattern.strip("/") if "://" not in pattern else pattern):
        piece = match[0]
        if match[1] is not None:
            pieces.append("([^/]+?)")
        elif piece.startswith("[") and len(piece) > 1:
            pieces.append(_one_of(piece[1:-1]))
        else:
            known = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}
            pieces.append(known.get(piece, re.escape(piece)))
    return re.compile(f"(?:.*/)?{''.join(pieces)}", re.DOTALL)


def _one_of(inner: str) -> str:
    """What a glob has between brackets, as a regular expression."""
    is_other = inner[0] in "!^"
    kinds = [
        f"{re.escape(low)}-{re.escape(high)}" if low else re.escape(one)
        for low, high, one in _OF_A_CLASS.findall(inner[is_other:])
    ]
    return f"(?!/)[{'^' * is_other}{''.join(kinds)}]"
