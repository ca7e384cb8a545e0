"""CSV and TSV as people have them: what is read, what is a bad row, what is refused."""

import csv
import threading
from pathlib import Path

import pytest

from rayinfluence.corpus.documents import BadDocument, read_documents
from rayinfluence.corpus.forms import Columns, Document
from rayinfluence.corpus.sources import delimited
from rayinfluence.errors import CorpusError
from rayinfluence.storage.store import Store


def read(path: Path, body: bytes | str) -> list[Document | BadDocument]:
    path.write_bytes(body.encode() if isinstance(body, str) else body)
    return list(read_documents(Store(str(path)), Columns("text", "id")))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "docs.csv"


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("begins", ["", "\ufeff", "\n"])
def test_records_are_counted_and_not_lines(path: Path, ends: str, begins: str) -> None:
    lines = ["text,year", '"one', 'more",1999', "", "two,", '"say ""a, b""",x']
    assert read(path, begins + ends.join(lines)) == [
        Document("docs.csv:1", f"one{ends}more", {"year": "1999"}, 1),
        Document("docs.csv:2", "two", {}, 2),
        Document("docs.csv:3", 'say "a, b"', {"year": "x"}, 3),
    ]


def test_an_empty_text_is_a_text_and_an_empty_name_is_none(path: Path) -> None:
    assert read(path, 'id,text\na,\n,x\n"",y\n') == [
        Document("a", "", {}, 1),
        Document("docs.csv:2", "x", {}, 2),
        Document("docs.csv:3", "y", {}, 3),
    ]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"a", "1 fields, and the header has 2"),
        (b"a,b,c", "3 fields, and the header has 2"),
        (b'"a"b,c', "not RFC 4180: ',' expected after '\"'"),
        (b"caf\xe9,c", "not UTF-8: it has the byte 0xe9"),
        (b"\xed\xa0\x80,c", "not UTF-8: it has the byte 0xed"),
    ],
)
def test_a_bad_row_is_told_with_its_place_and_the_others_are_read(
    path: Path, row: bytes, reason: str
) -> None:
    assert read(path, b"text,year\none,1\n" + row + b"\ntwo,2\n") == [
        Document("docs.csv:1", "one", {"year": "1"}, 1),
        BadDocument(f"{path}:2", reason),
        Document("docs.csv:3", "two", {"year": "2"}, 3),
    ]


@pytest.mark.parametrize("body", ["", "\n\n", "text\n", "text"])
def test_a_file_without_records_has_no_documents(path: Path, body: str) -> None:
    assert read(path, body) == []


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"a,b\n", r"has no column 'text'; its header has a, b\. Name yours under corpus\.text_c"),
        (
            b"id;text\n1;a\n",
            r"has its columns apart by semicolons, .* read with commas .* save it so\.",
        ),
        (b"id\ttext\n1\ta\n", r"has its columns apart by tabs, .* save it so, or call it \.tsv\."),
        (b"text,a,text\n", "has two columns 'text' in its header, .* rename one"),
        (b"te\xe9t\n", "has a header that cannot be read: it is not UTF-8: .* 0xe9"),
        (b'"text"s\n', "has a header that cannot be read: it is not RFC 4180"),
        (b'"text\n1\n', "cannot be read to its end .its header has a quote that is not closed"),
        (b'text\na\n"b\nc\n', "cannot be read to its end .row 2 has a quote that is not closed"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(path: Path, body: bytes, said: str) -> None:
    with pytest.raises(CorpusError, match=rf"docs\.csv {said}"):
        read(path, body)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
def test_another_encoding_is_refused_and_not_guessed_at(path: Path, encoding: str) -> None:
    with pytest.raises(CorpusError, match=r"docs\.csv .* UTF-16 or UTF-32.*save it as UTF-8"):
        read(path, "\ntext\n中文 w1\n".encode(encoding))


def test_a_field_may_be_long_and_csv_s_own_limit_stays(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = csv.field_size_limit()
    text = "long " * limit
    [document] = read(path, f'text\n"{text}"\n')
    assert isinstance(document, Document)
    assert document.text == text
    assert csv.field_size_limit() == limit
    monkeypatch.setattr(delimited, "LONGEST_FIELD", 1000)
    with pytest.raises(CorpusError, match=r"row 1 has .* a field of more than 1,000 characters"):
        read(path, f'text\n"{text}"\n')
    assert csv.field_size_limit() == limit


def test_files_that_are_read_side_by_side_leave_each_other_s_fields_alone(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    found: list[int] = []

    def one(number: int) -> None:
        rows = f'"{"x" * (limit + number)}"\n' * 20
        found.append(len(read(tmp_path / f"{number}.csv", f"text\n{rows}")))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [20] * 4
    assert csv.field_size_limit() == limit
