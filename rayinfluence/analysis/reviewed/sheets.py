"""Sheets that people have filled in, as they come back from a page or a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass

from rayinfluence.analysis.reviewed.items import RELATIONS, Review
from rayinfluence.errors import InputError

#: Columns of a sheet; who only answers needs the first six.
COLUMNS = ("export", "item", "rater", "about", "relates", "question", "answer", "text")
_NEEDED = ("export", "item", "about", "relates")
_SEPARATORS = (",", ";", "\t")


@dataclass(frozen=True)
class Sheet:
    """What one person said.

    Attributes:
        name: of the file.
        rater: as the sheet says, else the file's name.
        about: what each text is about, by item; those without an answer are not there.
        relates: how it relates, likewise.
    """

    name: str
    rater: str
    about: Mapping[str, str]
    relates: Mapping[str, str]


def read_sheet(name: str, body: bytes, review: Review) -> Sheet:
    """A sheet by its key.

    Args:
        name: of the file, for messages.
        body: CSV with commas, semicolons or tabs, in UTF-8 or, with its mark, UTF-16.
        review: that the sheet should be of.

    Raises:
        InputError: it is of another export, or a row is not of it, or there twice, or has an answer
            that was not offered.
    """
    rows = _rows(name, body)
    items = {one.item for one in review.items}
    topics = {one.strip().casefold(): one for one in review.topics}
    relations = {one: one for one in RELATIONS}
    lines: dict[str, int] = {}
    raters: set[str] = set()
    about: dict[str, str] = {}
    relates: dict[str, str] = {}
    for line, row in rows:
        where = f"{name}, row {line}"
        export, item = row["export"], row["item"]
        if export != review.export:
            raise InputError(
                f"{where}: it is of the export {export or '(none)'}, and the key is of "
                f"{review.export}. Name the key.json that was written beside this sheet."
            )
        if item not in items:
            raise InputError(
                f"{where}: item {item or '(none)'} is none of the {len(items):,} of this export."
            )
        if item in lines:
            raise InputError(f"{where}: item {item} is in row {lines[item]} too. Keep one of them.")
        lines[item] = line
        if row["rater"]:
            raters.add(row["rater"])
        if row["about"]:
            about[item] = _offered(where, "about", row["about"], topics) if topics else row["about"]
        if row["relates"]:
            relates[item] = _offered(where, "relates", row["relates"], relations)
    if len(raters) > 1:
        raise InputError(
            f"{name}: it is of several raters, {', '.join(sorted(raters)[:3])}. Give each a sheet."
        )
    return Sheet(name, next(iter(raters), name), about, relates)


def _offered(where: str, column: str, value: str, offered: Mapping[str, str]) -> str:
    found = offered.get(value.casefold())
    if found is None:
        raise InputError(
            f"{where}: {column} is {value[:60]!r}, and {', '.join(offered.values())} were offered."
        )
    return found


def _rows(name: str, body: bytes) -> list[tuple[int, dict[str, str]]]:
    """Rows by their number in the file; those that are empty are passed over."""
    try:
        utf16 = body[:2] in (b"\xff\xfe", b"\xfe\xff")
        text = body.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is no text in UTF-8: save it as CSV in UTF-8.") from error
    first = text.split("\n", 1)[0]
    separator = max(_SEPARATORS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        heads = [one.strip().casefold() for one in next(reader, [])]
        if missing := [one for one in _NEEDED if one not in heads]:
            lacks = " and no column ".join(missing)
            raise InputError(f"{name} is no sheet of a review: it has no column {lacks}.")
        found = []
        for number, cells in enumerate(reader, start=2):
            if any(cell.strip() for cell in cells):
                values = dict(zip(heads, (cell.strip() for cell in cells), strict=False))
                found.append((number, {one: values.get(one, "") for one in COLUMNS}))
    except csv.Error as error:
        raise InputError(f"{name} is no CSV: {error}.") from error
    if not found:
        raise InputError(f"{name} has no rows.")
    return found
