"""What of the data is not looked at though it was given, in sentences that warn of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rayinfluence.corpus.limits import by_reason, named
from rayinfluence.corpus.manifest import CorpusManifest

#: What rows are called that are left out, one and several; by the counts of reports.
_BAD = {"n_bad": ("row is no document", "rows are no documents")}
_PASSED_OVER = {
    "empty_documents": ("document is without text", "documents are without text"),
    "short_documents": ("document is of one token", "documents are of one token"),
    "no_pages": ("row is no page", "rows are no pages"),
}


def lost_rows(manifest: CorpusManifest) -> list[str]:
    """Rows of documents' files that gave nothing, by reason, and where the first of them is.

    Those that are bad and those that are as they should be are told apart; then the files without
    any rows.

    Args:
        manifest: of the corpus.
    """
    return [
        *_lost(manifest.files, "bad", "reasons", _BAD),
        *_lost(manifest.files, "passed_over", "why_passed_over", _PASSED_OVER),
        *_without_rows(manifest.without_rows),
    ]


def _lost(
    files: Sequence[Mapping[str, Any]], rows: str, why: str, kinds: Mapping[str, tuple[str, str]]
) -> Iterator[str]:
    """A sentence, if there are any.

    Args:
        files: reports; those of before may lack something.
        rows: where a report names them.
        why: where it has their reasons.
        kinds: counts of a report, with what one row and several of the kind are called.
    """
    found = [file for file in files if any(file.get(name) for name in kinds)]
    if not found:
        return
    totals = {name: sum(file.get(name, 0) for file in found) for name in kinds}
    parts = [f"{n:,} {kinds[name][n != 1]}" for name, n in totals.items() if n]
    reasons = Counter[str]()
    for file in found:
        reasons.update(file.get(why, {}))
    by = f" ({by_reason(reasons)})" if len(reasons) > 1 else ""
    first = next((file[rows][0] for file in found if file.get(rows)), None)
    where = f"; the first is {first['place']}: {first['reason'].rstrip('.')}" if first else ""
    of = _counted(len(found), "file")
    yield f"corpus: {' and '.join(parts)}{by}, and left out, of {of}{where}."


def _without_rows(urls: Sequence[str]) -> Iterator[str]:
    if urls:
        has = "has no row" if len(urls) == 1 else "have no rows"
        yield f"corpus: {_counted(len(urls), 'file')} of documents {has}: {named(urls)}."


def lost_sequences(where: str, reasons: Iterable[tuple[int, str]]) -> list[str]:
    """Sequences that are left out somewhere, such as of the scan, and why the first of them is.

    Args:
        where: of what.
        reasons: by sequence id; a sequence may be left out for several.
    """
    found = dict(sorted(reasons, reverse=True))  # of several the first stays
    if not found:
        return []
    first = min(found)
    left = "is left out" if len(found) == 1 else "are left out"
    return [
        f"{_counted(len(found), 'sequence')} {left} of {where}, the first of them {first}: "
        f"{found[first].rstrip('.')}."
    ]


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}{'s' * (n != 1)}"
