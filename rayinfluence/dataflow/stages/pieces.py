"""Files of documents and parts of large ones, tokenised side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from rayinfluence.corpus.fragments import Seen
from rayinfluence.corpus.known import read_part
from rayinfluence.corpus.parts import PARTS, Part, put_together
from rayinfluence.corpus.shards import SHARDS
from rayinfluence.dataflow import stage_names
from rayinfluence.dataflow.jobs.tokenize import Outcome, Piece, Tokenizing
from rayinfluence.dataflow.runners.base import Runner
from rayinfluence.dataflow.stages.ensure import Place, not_there
from rayinfluence.dataflow.stages.progress import StageProgress
from rayinfluence.storage.store import Store

#: For the progress alone: bytes of a file that become one token, roughly.
BYTES_PER_TOKEN = 4


def outcomes(
    runner: Callable[[], Runner],
    tokenizing: Tokenizing,
    files: Mapping[Seen, Store],
    told: StageProgress,
) -> Iterator[tuple[Seen, Outcome]]:
    """What becomes of files, in their order, each as soon as it and those before it are done."""
    surveyed = _surveyed(runner, tokenizing, files)
    pieces = {
        seen: [Piece(file, seen, part) for part in _parts(surveyed.get(seen))]
        for seen, file in files.items()
    }
    known = _known(tokenizing, [piece for of_file in pieces.values() for piece in of_file])
    left = {
        seen: [piece for piece in of_file if (seen, piece.part) not in known]
        for seen, of_file in pieces.items()
    }
    for seen, _ in known:
        told.skip(seen.size // BYTES_PER_TOKEN // len(pieces[seen]))
    done = _done(runner, tokenizing, [one for of_file in left.values() for one in of_file], told)
    for seen, of_file in pieces.items():
        found = [next(done) for _ in left[seen]]
        why_bad = surveyed.get(seen)
        if isinstance(why_bad, str):
            yield seen, Outcome(why_bad=why_bad)
        elif bad := next((one for one in found if one.why_bad), None):
            yield seen, bad
        elif of_file[0].part is None:
            yield seen, found[0]
        else:
            yield seen, _end(tokenizing, of_file)


def _surveyed(
    runner: Callable[[], Runner], tokenizing: Tokenizing, files: Mapping[Seen, Store]
) -> dict[Seen, list[Part] | str]:
    large = [Piece(file, seen) for seen, file in files.items() if seen.size > tokenizing.part_bytes]
    if not large:
        return {}
    found = runner().tasks(tokenizing.survey, large)
    return {piece.seen: parts for piece, parts in zip(large, found, strict=True)}


def _parts(surveyed: Sequence[Part] | str | None) -> Sequence[Part | None]:
    """What a file is tokenised in, None is all of it; one that is known to be bad in nothing."""
    if isinstance(surveyed, str):
        return []
    return surveyed or [None]


def _known(tokenizing: Tokenizing, pieces: Sequence[Piece]) -> set[tuple[Seen, Part | None]]:
    """Parts that are done, with their files."""
    store = tokenizing.corpus
    cut = {_key(tokenizing, piece): piece for piece in pieces if piece.part}
    there = store.list(PARTS) if cut else {}
    found = [key for key in cut if key in there]
    shards = store.list(SHARDS) if found else {}
    return {(cut[key].seen, cut[key].part) for key in found if read_part(store, key, shards)}


def _done(
    runner: Callable[[], Runner],
    tokenizing: Tokenizing,
    pieces: Sequence[Piece],
    told: StageProgress,
) -> Iterator[Outcome]:
    if len(pieces) == 1:
        yield tokenizing.do(pieces[0], told.advance)
    elif pieces:
        yield from runner().told_tasks(stage_names.TOKENIZE, tokenizing.do, pieces, told.advance)


def _end(tokenizing: Tokenizing, pieces: Sequence[Piece]) -> Outcome:
    """Put the parts of a file together."""
    store = tokenizing.corpus
    shards = store.list(SHARDS)
    parts = []
    for piece in pieces:
        key = _key(tokenizing, piece)
        part = read_part(store, key, shards) if store.exists(key) else None
        if part is None:
            raise not_there(Place(store, key))
        parts.append(part)
    return tokenizing.end(pieces[0].file, put_together(parts))


def _key(tokenizing: Tokenizing, piece: Piece) -> str:
    assert piece.part is not None
    return piece.part.key(tokenizing.making.digest, piece.seen)
