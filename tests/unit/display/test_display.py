"""What commands print: three renderers of one value, and nothing of others' that acts."""

import io
import json

import pytest
from rich.console import Console
from rich.text import Text

from rayinfluence.display import Column, Part, Shown, Table, json_alone, show
from rayinfluence.display.as_json import json_text
from rayinfluence.display.coloured import print_coloured
from rayinfluence.display.plain import plain_lines

EVIL = "a\x1b[31mb\x1b]0;title\x07\u202ec\u200bd [bold]e[/bold]\x00\x9b"
ACTS = "\x1b\x07\x00\u202e\u200b\x9b"
PARTS: list[Part] = [
    EVIL,
    Table([Column(EVIL), Column("n", number=True)], [(EVIL, "1"), ("x", "12")], EVIL),
    "at s3://user:password@host/place",
]


def coloured(parts: list[Part], width: int = 200) -> str:
    file = io.StringIO()
    print_coloured(parts, Console(file=file, width=width, force_terminal=True, color_system=None))
    return file.getvalue()


@pytest.mark.parametrize(
    "printed", ["\n".join(plain_lines(PARTS)), coloured(PARTS)], ids=["plain", "coloured"]
)
def test_what_others_wrote_acts_on_no_terminal(printed: str) -> None:
    # Styles of rich's own, of titles, are the only escapes.
    ours = printed.replace("\x1b[1m", "").replace("\x1b[0m", "")
    assert [sign for sign in ACTS if sign in ours] == []
    assert printed.count("\u241b[31mb\u241b]0;title\u2407[U+202E]c[U+200B]d") == 4
    assert "[bold]e[/bold]" in printed
    assert "password" not in printed


def test_json_is_ascii_and_holds_what_was_written() -> None:
    text = json_text({"id": EVIL, "n": 2, "inside": [{"inf": float("inf")}, float("nan"), 0.5]})
    assert text.isascii()
    assert [sign for sign in ACTS if sign in text] == []
    assert json.loads(text) == {
        "format": 1,
        "id": EVIL,
        "n": 2,
        "inside": [{"inf": None}, None, 0.5],
    }


def test_plain_tables_have_a_line_a_row_however_long() -> None:
    long = "word " * 100
    table = Table(
        [Column("name"), Column("count", number=True)], [(long, "7"), ("日本\nx", "1,000")], "Title"
    )
    assert list(plain_lines([table])) == [
        "Title",
        "name" + " " * 495 + "  count",
        f"{long.strip()}      7",
        "日本 x" + " " * 493 + "  1,000",
    ]


def test_coloured_tables_fold_into_the_width() -> None:
    table = Table([Column("n", number=True), Column("text", wide=True)], [("1", "w " * 60)])
    lines = coloured([table], 40).splitlines()
    assert len(lines) > 3
    assert max(map(len, lines)) <= 40


def test_styles_are_for_terminals_alone(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Shown([Text("red", "red"), Table([Column("a")], [(Text("b", "bold"),)])], {"a": ["b"]})
    show(shown)
    assert capsys.readouterr().out == "red\na\nb\n"
    show(shown, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"format": 1, "a": ["b"]}


def test_a_table_without_rows_is_its_heads() -> None:
    assert list(plain_lines([Table([Column("a"), Column("b")], [])])) == ["a  b"]
    assert coloured([Table([Column("a"), Column("b")], [])]).split() == ["a", "b"]


def test_an_object_is_alone_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    with json_alone():
        print("a line of somebody's function")
        show(Shown(PARTS, {"n": 2}), as_json=True)
    print("after it")
    found = capsys.readouterr()
    told, _, rest = found.out.partition("\nafter it")
    assert json.loads(told) == {"format": 1, "n": 2}
    assert rest == "\n"
    assert found.err == "a line of somebody's function\n"
