"""Lists of ids, and what is counted of rows that conditions choose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rayinfluence.corpus.conditions import Chosen, Condition, told
from rayinfluence.errors import ConfigError
from rayinfluence.storage.store import Store

ROWS = pa.table(
    {
        "document_id": ["a", "a", "b b", "c", "d"],
        "metadata": ['{"n": 1}', '{"n": 2}', "{}", '{"n": "3"}', '{"n": 4}'],
    }
)


def of_file(path: Path, body: bytes) -> Condition:
    path.write_bytes(body)
    return Condition.of_file("corpus.select", Store(str(path)))


@pytest.mark.parametrize(
    ("body", "ids"),
    [
        (b"a\nb b\n", {"a", "b b"}),
        (b"\xef\xbb\xbfa\r\n\r\nb b", {"a", "b b"}),
        ("é\n\u2028x\n".encode(), {"é", "\u2028x"}),
        (b" a \n", {" a "}),
    ],
)
def test_a_line_is_an_id(tmp_path: Path, body: bytes, ids: set[str]) -> None:
    assert of_file(tmp_path / "ids", body).ids == ids


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "names no document"),
        (b"\n \n", "names no document"),
        ("a\nb\n".encode("utf-16"), "is not text in UTF-8"),
        ("a\nb\n".encode("utf-16-le"), "by its zero bytes"),
        (b"\xff\xfe", "is not text in UTF-8"),
    ],
)
def test_what_is_no_list_of_ids_is_refused(tmp_path: Path, body: bytes, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"corpus\.select\.ids: .*{said}"):
        of_file(tmp_path / "ids", body)


def test_the_order_of_a_list_does_not_count(tmp_path: Path) -> None:
    one = of_file(tmp_path / "one", b"a\nb\n").digest
    assert one == of_file(tmp_path / "two", b"b\na\na\n").digest
    assert one != of_file(tmp_path / "three", b"a\nc\n").digest


def test_what_is_left_out_is_counted_once(tmp_path: Path) -> None:
    """And comes back from what is written of it."""
    select = Condition.on_metadata("corpus.select", "n >= 2")
    listed = of_file(tmp_path / "ids", b"a\nd\nzz\n")
    exclude = Condition("corpus.exclude", listed.text, ids=listed.ids)
    chosen = Chosen.of(ROWS, select, exclude)
    assert chosen.rows_K.tolist() == []
    assert chosen.left_out == {"corpus.select": 3, "corpus.exclude": 2}
    assert chosen.unknown["corpus.select"] == 2
    assert chosen.others == {("n", "number"): (1, "3")}
    assert chosen.found == {"corpus.exclude": {"a", "d"}}
    again = Chosen.from_header(np.array([4]), chosen.to_header())
    both = told([chosen, again])
    assert both.left_out == {"corpus.select": 6, "corpus.exclude": 4}
    assert both.others == {("n", "number"): (2, "3")}
    assert both.found == chosen.found
    only = Chosen.of(ROWS, None, Condition.on_metadata("corpus.exclude", "n == 1"))
    assert only.rows_K.tolist() == [1, 2, 3, 4]
    assert only.unknown == {"corpus.exclude": 2}
