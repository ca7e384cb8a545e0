"""What every format of documents has to do, as tests: inherit from the suite and say which."""

from __future__ import annotations

import io
import lzma
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa

from rayinfluence.corpus.documents import (
    BadDocument,
    file_digest,
    read_documents,
    refuse_other_content,
)
from rayinfluence.corpus.forms import Columns, Document
from rayinfluence.corpus.magic import BEGINNING
from rayinfluence.corpus.sources import find_source
from rayinfluence.corpus.sources.compression import CODECS, Codec
from rayinfluence.corpus.sources.source import Source
from rayinfluence.errors import CorpusError
from rayinfluence.storage.reading import DigestedFile
from rayinfluence.storage.store import Store

#: How often texts are in the larger files.
_TIMES = 20
#: What formats trip over: line breaks, quotes, delimiters, characters of every length, nothing.
TEXTS = ("one", 'a "b", c;\td', "x\ny\r\n\r\nz\n", " \u00e9\u2028\U0001f600 ", "\\n'", "", '"')


class SourceConformance:
    """The tests of :mod:`rayinfluence.corpus.sources`; pytest finds them in what inherits.

    Attributes:
        source: the format, which is in the registry.
        texts: that files of it can hold; only those are left out that it has no way to write.
        has_columns: whether rows have other columns beside the text, and names; where they have
            not, rows that are to be written have a text alone.
        columns: that its files are read with.
    """

    source: Source
    texts: tuple[str, ...] = TEXTS
    has_columns = True
    columns = Columns("text", "id")

    def written(self, rows: Sequence[Mapping[str, str]]) -> bytes:
        """A file of rows that have the same columns, in parts where the format has parts."""
        raise NotImplementedError

    def with_a_bad_row(self) -> bytes:
        """A file of three rows: of the texts "one" and "two", and between them no document."""
        raise NotImplementedError

    def without_strings(self) -> bytes | None:
        """A file of rows whose texts are numbers or nothing; None where all values are strings."""
        raise NotImplementedError

    def test_the_registry_knows_it(self) -> None:
        """By each of its endings, in any case; with those of compressions if it does not seek."""
        for ending in self.source.endings:
            assert ending.startswith(".")
            assert ending == ending.lower()
            assert find_source(f"A{ending.upper()}") == self.source
            for codec in CODECS:
                found = find_source(f"a{ending}{codec.endings[0]}")
                assert found == (None if self.source.seeks else self.source)

    def test_its_files_are_known_by_their_first_bytes(self, tmp_path: Path) -> None:
        """If it says so at all; whatever their names say then."""
        files = (self.written(self._rows()), self.with_a_bad_row())
        held = [self.source.holds(body[:BEGINNING]) for body in files]
        assert len(set(held)) == 1
        if not held[0] or self.source.is_text:
            return
        for name in ("documents", "documents.csv", "documents.parquet", "documents.txt"):
            (tmp_path / name).write_bytes(files[0])
            file = Store(str(tmp_path / name))
            refuse_other_content(file)
            assert list(read_documents(file, self.columns)) == self._documents(file)

    def test_rows_come_in_order_with_their_numbers(self, tmp_path: Path) -> None:
        """Texts and other columns are what was written, to the last character."""
        file = self._file(tmp_path, self.written(self._rows()))
        refuse_other_content(file)
        assert list(read_documents(file, self.columns)) == self._documents(file)

    def test_reading_again_gives_the_same(self, tmp_path: Path) -> None:
        """Also after one that was broken off, and from a file that is open already."""
        file = self._file(tmp_path, self.written(self._rows()))
        broken_off = read_documents(file, self.columns)
        assert next(broken_off) == self._documents(file)[0]
        assert list(read_documents(file, self.columns)) == self._documents(file)
        with file.open("") as raw:
            assert list(read_documents(file, self.columns, DigestedFile(raw))) == self._documents(
                file
            )

    def test_the_digest_is_of_all_bytes(self, tmp_path: Path) -> None:
        """However many rows were read; and the file is left open."""
        file = self._file(tmp_path, self.written(self._rows()))
        for n_rows in (0, 1, len(self._rows()) + 1):
            with file.open("") as raw:
                opened = DigestedFile(raw)
                documents = read_documents(file, self.columns, opened)
                assert len([next(documents, None) for _ in range(n_rows)]) == n_rows
                assert opened.digest() == file_digest(file)

    def test_a_bad_row_has_a_reason_and_ends_nothing(self, tmp_path: Path) -> None:
        """It is named by its place; what follows it has its own number."""
        file = self._file(tmp_path, self.with_a_bad_row())
        first, bad, last = read_documents(file, self.columns)
        assert isinstance(bad, BadDocument)
        assert bad.reason
        place, _, number = bad.place.rpartition(":")
        assert place == file.url
        assert isinstance(first, Document)
        assert isinstance(last, Document)
        assert (first.text, last.text) == ("one", "two")
        assert first.row is not None
        assert last.row is not None
        assert first.row < int(number) < last.row

    def test_a_text_is_a_string_or_none(self, tmp_path: Path) -> None:
        """What is no string is not made one."""
        body = self.without_strings()
        if body is None:
            return
        found = list(read_documents(self._file(tmp_path, body), self.columns))
        assert found
        for bad in found:
            if isinstance(bad, Document):
                assert bad.is_empty  # null is no text, and no fault
                continue
            # A list may be one of messages.
            kinds = ("'text' is not a string", "'text' must be a list of", "'text' has a message")
            assert bad.reason.startswith(kinds)

    def test_a_file_without_texts_names_its_columns(self, tmp_path: Path) -> None:
        """Those that there are, and where to name the one that is meant.

        Where there are no columns, a text is one under any name.
        """
        if not self.has_columns:
            file = self._file(tmp_path, self.written(self._rows()))
            assert [d.text for d in _good(file, replace(self.columns, text="body"))] == list(
                self.texts
            ) * _TIMES
            return
        file = self._file(tmp_path, self.written([{"body": "one", "key": "k"}] * 3))
        said = _refused(file)
        assert all(word in said for word in ("'text'", "body", "key", "corpus.text_column"))
        assert [d.text for d in _good(file, replace(self.columns, text="body"))] == ["one"] * 3

    def test_compressed_files_say_the_same(self, tmp_path: Path) -> None:
        """Of those that may be compressed as a whole; several members are one file."""
        for file, _ in self._compressed(tmp_path, self.written(self._rows())):
            assert list(read_documents(file, self.columns)) == self._documents(file)

    def test_cut_files_are_refused_or_end_early(self, tmp_path: Path) -> None:
        """Nothing is made up: one is refused, unless it ends as a whole file might.

        A row that is cut may be a bad one, or a shorter one; those before it are what they were.
        """
        body = self.written(self._rows())
        for ninth in range(1, 9):
            file = self._file(tmp_path, body[: len(body) * ninth // 9])
            if self.source.seeks:
                _refused(file)
                continue
            try:
                found = list(read_documents(file, self.columns))
            except CorpusError as error:
                _is_a_sentence(file, error)
                continue
            n_whole = max(len(found) - 1, 0)
            assert found[:n_whole] == self._documents(file)[:n_whole]

    def test_cut_files_that_are_compressed_are_refused(self, tmp_path: Path) -> None:
        """Wherever they end, but for between two members."""
        for file, body in self._compressed(tmp_path, self.written(self._rows())):
            for n_bytes in (len(body) - 3, len(body) // 4):
                Path(file.url).write_bytes(body[:n_bytes])
                assert "cannot be read to its end" in _refused(file)

    def test_garbled_files_give_bad_rows_or_are_refused(self, tmp_path: Path) -> None:
        """No other error comes out of it, whether bytes are others or are not there."""
        body = self.written(self._rows())
        places = range(0, len(body), max(1, len(body) // 16))
        for start, mask in product(places, (0x00, 0x11, 0xFF)):
            lost = body[start : start + 40]
            garbled = bytes(byte ^ mask for byte in lost) if mask else b""
            file = self._file(tmp_path, body[:start] + garbled + body[start + 40 :])
            try:
                found = list(read_documents(file, self.columns))
            except CorpusError as error:
                _is_a_sentence(file, error)
                continue
            if start > len(body) // 2:
                assert found[0] == self._documents(file)[0]

    def test_the_first_row_comes_before_the_file_is_read(self, tmp_path: Path) -> None:
        """So a file may be larger than the memory."""
        generator = np.random.default_rng(0)
        texts = [generator.bytes(1024).hex() for _ in range(4096)]
        body = self.written(self._rows(texts))
        plain = self._file(tmp_path, body)
        for file in (plain, *(file for file, _ in self._compressed(tmp_path, body))):
            with _Counted(file.url) as raw:
                documents = read_documents(file, self.columns, DigestedFile(raw))
                assert next(documents) == self._documents(file, texts[:1])[0]
                assert raw.n_read < Path(file.url).stat().st_size / 2

    def _rows(self, texts: Sequence[str] = ()) -> list[dict[str, str]]:
        """To be written: of these texts, or of all that the format can hold."""
        texts = texts or self.texts * _TIMES
        if not self.has_columns:
            return [{"text": text} for text in texts]
        return [
            {"id": f"i{number}", "text": text, "source": f"s{number % 3}"}
            for number, text in enumerate(texts, start=1)
        ]

    def _documents(self, file: Store, texts: Sequence[str] = ()) -> list[Document]:
        """What a file of such rows says."""
        return [
            Document(row.pop("id", f"{file.name}:{number}"), row.pop("text"), dict(row), number)
            for number, row in enumerate(self._rows(texts), start=1)
        ]

    def _file(self, folder: Path, body: bytes) -> Store:
        path = folder / f"documents{self.source.endings[0]}"
        path.write_bytes(body)
        return Store(str(path))

    def _compressed(self, folder: Path, body: bytes) -> Iterator[tuple[Store, bytes]]:
        """Files of this body with all compressions that it may have, as two members each."""
        if self.source.seeks:
            return
        for codec in CODECS:
            path = folder / f"documents{self.source.endings[0]}{codec.endings[0]}"
            half = len(body) // 2
            path.write_bytes(_packed(body[:half], codec) + _packed(body[half:], codec))
            yield Store(str(path)), path.read_bytes()


class _Counted(io.FileIO):
    n_read = 0

    def read(self, size: int | None = -1) -> bytes:
        part = super().read(-1 if size is None else size)
        self.n_read += len(part)
        return part


def _packed(body: bytes, codec: Codec) -> bytes:
    if codec.name == "xz":
        return lzma.compress(body, preset=0)
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "bz2" if codec.name == "bzip2" else codec.name) as stream:
        stream.write(body)
    packed: bytes = sink.getvalue().to_pybytes()
    return packed


def _good(file: Store, columns: Columns) -> list[Document]:
    found = read_documents(file, columns)
    return [one for one in found if isinstance(one, Document)]


def _refused(file: Store) -> str:
    """What is said of a file that is refused as a whole."""
    try:
        found = list(read_documents(file, Columns("text", "id")))
    except CorpusError as error:
        return _is_a_sentence(file, error)
    raise AssertionError(f"{file.url} is read, as {len(found)} rows")


def _is_a_sentence(file: Store, error: CorpusError) -> str:
    said = str(error)
    assert said.startswith(f"{file.url} ")
    assert said.endswith(".")
    return said
