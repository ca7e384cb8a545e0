"""Tokenising a file of documents, or a part of one: its shards, and then what is in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from rayinfluence.corpus.fragments import Fragment, Logged, Seen, write_fragment
from rayinfluence.corpus.limits import DEFAULT, Limits
from rayinfluence.corpus.ordinals import Making
from rayinfluence.corpus.parts import PART_BYTES, Part, known_parts, note_parts, survey
from rayinfluence.corpus.token_files import with_index
from rayinfluence.corpus.tokenize import tokenize_file
from rayinfluence.dataflow.jobs.watch import enter_phase
from rayinfluence.errors import CorpusError
from rayinfluence.storage.store import Store

if TYPE_CHECKING:
    from rayinfluence.corpus.tokenizer import Coding


class Piece(NamedTuple):
    """What is tokenised by one worker: a file, or a part of it."""

    file: Store
    seen: Seen
    part: Part | None = None


class Outcome(NamedTuple):
    """What became of it: how the log names a whole file, or why the file is bad."""

    logged: Logged | None = None
    why_bad: str | None = None


@dataclass(frozen=True)
class Tokenizing:
    """All that a file needs to be tokenised, here or elsewhere."""

    corpus: Store
    tokenizer: Coding
    making: Making
    limits: Limits = DEFAULT
    part_bytes: int = PART_BYTES

    def survey(self, piece: Piece) -> list[Part] | str:
        """The parts of a large file, none where it is read whole; or why it is bad.

        It is read if it never was.

        Raises:
            CorpusError: the file was written to meanwhile.
        """
        tokens = self.making.settings.columns.tokens
        if parts := known_parts(self.corpus, piece.seen, self.part_bytes, tokens):
            return parts
        try:
            parts = survey(piece.file, self.part_bytes, tokens)
        except CorpusError as error:
            _refuse_changed(piece)
            return str(error)
        _refuse_changed(piece)
        if parts:  # which took a reading of all of it
            enter_phase("survey", piece.file.name)
            note_parts(self.corpus, piece.seen, self.part_bytes, tokens, parts)
        return parts

    def do(self, piece: Piece, advance: Callable[[int], None] = lambda tokens: None) -> Outcome:
        """Write shards, and then the fragment of the file, or of its part.

        Raises:
            CorpusError: the file was written to meanwhile.
        """
        file, seen, part = piece

        def write(key: str, body: bytes) -> None:
            enter_phase("shard", file.name)
            self.corpus.write(key, body)

        settings = self.making.settings
        try:
            shards, report = tokenize_file(file, self.tokenizer, settings, write, advance, part)
        except CorpusError as error:
            _refuse_changed(piece)  # it is no damage that a file is not whole yet
            return Outcome(why_bad=str(error))
        _refuse_changed(piece)
        fragment = Fragment.of(report, shards)
        if part is not None:
            enter_phase("fragment", file.name)
            self.corpus.write(part.key(self.making.digest, seen), fragment.to_json())
            enter_phase("tokenized", file.name)
            return Outcome()
        return self.end(file, fragment)

    def end(self, file: Store, fragment: Fragment) -> Outcome:
        """Write the fragment of a file that has not too many bad rows."""
        if why := self.limits.why_bad(fragment.report, self.making.settings.columns):
            return Outcome(why_bad=why)
        enter_phase("fragment", file.name)
        logged = write_fragment(self.corpus, self.making.digest, fragment)
        enter_phase("tokenized", file.name)
        return Outcome(logged)


def _refuse_changed(piece: Piece) -> None:
    if Seen.of(piece.file.url, with_index(piece.file, piece.file.info())) != piece.seen:
        raise CorpusError(
            f"{piece.file.url} was written to while it was read: what is in the corpus would be "
            "neither the old file nor the new one. Run the same command again when it is whole."
        )
