"""Texts and tables that begin as other formats do, folders of bookkeeping, and odd headers."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayinfluence.corpus.documents import BadDocument, read_documents
from rayinfluence.corpus.files import find_files
from rayinfluence.corpus.forms import Columns, Document
from rayinfluence.corpus.query_files import read_queries
from rayinfluence.errors import CorpusError
from rayinfluence.storage.store import Store

WORDS = ["ORCID", "ORCHESTRA", "PAR1", "PARENTS", "PAR1SH", "ARROW1", "Obj1"]


def read(path: Path) -> list[Document | BadDocument]:
    return list(read_documents(Store(str(path)), Columns("text", "id")))


def texts(path: Path) -> list[str]:
    return [one.text for one in read(path) if isinstance(one, Document)]


@pytest.mark.parametrize("word", WORDS)
def test_words_are_no_marks_of_binary_formats(tmp_path: Path, word: str) -> None:
    table = tmp_path / "a.csv"
    table.write_text(f"{word},text,prompt,completion\n0,one,w1,w2\n")
    assert texts(table) == ["one"]
    assert [one.answers[0].prompt for one in read_queries(Store(str(table)))] == ["w1"]
    for ending in (".txt", ".md"):
        prose = tmp_path / f"a{ending}"
        prose.write_text(f"{word} and more.\n\tOf t\u00e9xt.\n")
        assert texts(prose) == [f"{word} and more.\n\tOf t\u00e9xt.\n"]


PROSE = [
    '[{"x"}] is json\n',
    '{"a": 1} is an object.\n',
    '[{"a": 1}]\n\n# Lists\n',
    '{"a" and so on',
]


@pytest.mark.parametrize("prose", [*PROSE, PROSE[0] * 1000])
@pytest.mark.parametrize("ending", [".md", ".txt"])
def test_prose_that_begins_as_json_does_is_prose(tmp_path: Path, prose: str, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    path.write_text(prose)
    assert texts(path) == [prose]


@pytest.mark.parametrize("n_words", [1, 5000])
@pytest.mark.parametrize("gap", ["", "\\u00e9", "\n"])
def test_lines_of_json_under_the_name_of_a_text_are_lines(
    tmp_path: Path, n_words: int, gap: str
) -> None:
    path = tmp_path / "a.txt"
    between = gap if gap == "\n" else ""
    row = f'{{"text":{between} "{"w1 " * n_words}{gap.strip()}"}}'
    path.write_text(f"[{row},{row}]" if between else f"{row}\n{row}\n")
    assert len(texts(path)) == 2


def test_folders_of_what_is_uncommitted_are_left_out_and_named(tmp_path: Path) -> None:
    for name in (
        "part-0.jsonl",
        "_year=2020/part-0.jsonl",
        "_temporary/0/task_1/part-0.jsonl",
        "deep/_delta_log/00000.json",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"text": "one"}\n')
    found = find_files([str(tmp_path)], lambda url: {})
    assert [file.url.removeprefix(f"{tmp_path}/") for file in found.files] == [
        "_year=2020/part-0.jsonl",
        "part-0.jsonl",
    ]
    assert found.line == "2 hidden or bookkeeping (_temporary, deep/_delta_log)"
    itself = find_files([str(tmp_path / "_temporary")], lambda url: {})
    assert len(itself.files) == 1


def test_a_space_in_a_header_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id, text\n1,one\n")
    with pytest.raises(CorpusError, match=r"it is ' text' in its header, and not 'text'"):
        read(path)


def test_columns_without_a_name_may_be_empty(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,text,,\n1,one,,\n2,two,,lost\n3,three,,\n")
    one, two, three = read(path)
    assert isinstance(one, Document)
    assert isinstance(three, Document)
    assert (one.text, three.text) == ("one", "three")
    assert "" not in one.metadata
    assert isinstance(two, BadDocument)
    assert two.reason == "a value in a column without a name, of which there are 2"


@pytest.mark.parametrize(
    "body",
    [
        '{"text": "one"},\n{"text": "two"},\n{"text": "three"},\n',
        '\ufeff{"text": "one"},\n{"text": "two"} , {"text": "three"}',
        '{"text":\n"one"}\n{"text":\n"two"}\n{"text":\n"three"}\n',
    ],
    ids=["a list without brackets", "with a mark", "a colon ends a line"],
)
def test_objects_of_json_that_are_not_one_a_line(body: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(body, encoding="utf-8")
    assert texts(tmp_path / "a.json") == ["one", "two", "three"]
