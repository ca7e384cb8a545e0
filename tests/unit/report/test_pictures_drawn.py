"""Pictures as SVG of the page, as files of matplotlib, and as CSV and JSON."""

import builtins
import csv
import io
import json
import struct
from typing import Any
from xml.etree import ElementTree

import pytest
from made_up_results import HOSTILE, Page, group, hostile_results, make_results, row

from rayinfluence.errors import ConfigError
from rayinfluence.report.pictures import PICTURES, Figure, Seen, pictures_of
from rayinfluence.report.pictures.data import data_files
from rayinfluence.report.pictures.figure import Axis, Mark, Series, linear
from rayinfluence.report.pictures.paper import draw_files, refuse_no_matplotlib
from rayinfluence.report.pictures.section import pictures_section
from rayinfluence.report.pictures.svg import draw
from rayinfluence.text import visible

DOLLARS = "$\\frac{1}{0}$ costs $2"


def figure(title: str = "A title", **changes: Any) -> Figure:
    bars = (
        Mark((0.0, 1.0), (0.0, 3.0), "three", ("source", "web")),
        Mark((1.0, 2.0), (0.0, -2.0), "minus two"),
    )
    dots = (Mark.at(0.5, 1.0, "one"),)
    band = (Mark((0.0, 0.0), (0.0, 1.0), ""), Mark((2.0, 2.0), (1.0, 2.0), ""))
    values: dict[str, Any] = {
        "name": "tail",
        "title": title,
        "x": Axis("across", 0.0, 2.0, ((0.0, "0"), (2.0, "2"))),
        "y": linear("up", [-2.0, 3.0]),
        "series": (
            Series("a band", "band", "chance", band),
            Series("bars", "bars", "raises", bars),
            Series("dots", "points", "plain", dots),
            Series("a line", "line", "quiet", dots * 2),
        ),
        "notes": ("A note.",),
        "heads": ("name", "number", "share"),
        "rows": (("web", 3, 0.25), ("none", -2, None)),
        **changes,
    }
    return Figure(**values)


def hostile_figures() -> list[Figure]:
    groups = [group(HOSTILE, HOSTILE, column=HOSTILE), group("b", HOSTILE, column=HOSTILE)]
    made = hostile_results()
    made.groups = make_results([], groups=groups).groups
    seen = Seen.of(made, HOSTILE, 20)
    return [one for kind in PICTURES for one in pictures_of(kind, seen, {HOSTILE: made})]


# In the page.


def test_marks_say_their_numbers_and_one_of_them_is_reached_by_the_key() -> None:
    page = Page(draw(figure()))
    marks = page.of_class("mark")
    assert [mark.get("tabindex") for mark in marks] == ["0", *[None] * (len(marks) - 1)]
    assert [mark.get("data-value") for mark in marks[:2]] == ["web", None]
    assert marks[0]["data-group"] == "source"
    assert page.text.count("minus two") == 1
    assert page.text.startswith("A title")


def test_bars_are_where_the_axes_say() -> None:
    [svg] = ElementTree.fromstring(draw(figure())).findall(".//svg[@role='group']")
    first, second = svg.findall(".//rect")
    bottom = float(svg.find(".//line[@class='grid']").get("y2"))  # type: ignore[union-attr]
    zero = {float(one.get("y1")) for one in svg.findall(".//line[@class='zero']")}  # type: ignore[arg-type]
    top, height = float(first.get("y") or 0), float(first.get("height") or 0)
    # Three units up and two down of a plot of five, at the same zero.
    assert top + height == pytest.approx(float(second.get("y") or 0), abs=0.2)
    assert any(top + height == pytest.approx(one, abs=0.2) for one in zero)
    assert height / float(second.get("height") or 1) == pytest.approx(1.5, rel=0.01)
    assert float(second.get("y") or 0) + float(second.get("height") or 0) <= bottom + 0.1


def test_a_picture_needs_no_style_of_its_own_and_ids_of_none() -> None:
    page = Page(draw(figure()))
    assert not {"style", "id", "fill", "stroke"} & {key for _, a in page.elements for key in a}
    assert page.open == []


def test_the_table_behind_has_the_numbers_and_says_what_it_leaves_out() -> None:
    text = Page(draw(figure())).text
    assert "The numbers (2 rows)" in text
    assert "web30.25" in text
    long = figure(rows=tuple((f"r{n}", n, 0.5) for n in range(120)))
    page = Page(draw(long))
    assert "20 more rows: `rayinfluence plot` writes all of them" in page.text
    assert sum(name == "tr" for name, _ in page.elements) == 101


def test_hostile_names_stay_data() -> None:
    figures = hostile_figures()
    assert {one.name for one in figures} >= {"layers", "groups", "tokens", "rescoring"}
    for one in figures:
        page = Page(draw(one))
        assert not {"img", "script", "style"} & {name for name, _ in page.elements}
        assert not {"onerror", "onload"} & {key for _, a in page.elements for key in a}
        assert "\x1b" not in page.text


# Files.


def test_files_are_a_png_and_an_svg_with_the_title_and_no_date() -> None:
    files = draw_files(figure()).files
    assert files["png"].startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", files["png"][16:24])
    assert width > 1000
    assert height > 500
    root = ElementTree.fromstring(files["svg"])
    texts = ["".join(one.itertext()) for one in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"A title", "across", "up", "bars", "dots"} <= set(texts)
    assert b"date" not in files["svg"]


def test_equal_figures_give_equal_bytes_whatever_the_caller_has_set() -> None:
    mpl = pytest.importorskip("matplotlib")
    first = draw_files(figure())
    with mpl.rc_context({"font.size": 30, "svg.hashsalt": None, "axes.grid": True}):
        assert draw_files(figure()) == first
        assert mpl.rcParams["font.size"] == 30


@pytest.mark.parametrize("title", [DOLLARS, HOSTILE, "", "<b>&amp;"])
def test_titles_are_text_and_not_formulas(title: str) -> None:
    files = draw_files(figure(title)).files
    text = "".join(ElementTree.fromstring(files["svg"]).itertext())
    assert "".join(visible(title).split()) in "".join(text.split())


def test_every_kind_of_picture_can_be_drawn() -> None:
    for one in hostile_figures():
        assert set(draw_files(one).files) == {"png", "svg"}


def test_data_have_all_rows_and_no_formula() -> None:
    rows = (("=1+1", 3, 0.1), ("-2", -2, None), ('a "b", c', 0, 1e-20))
    files = data_files(figure(rows=rows), {"query_id": HOSTILE})
    read = list(csv.reader(io.StringIO(files["csv"].decode())))
    assert read == [
        ["name", "number", "share"],
        ["'=1+1", "3", "0.1"],
        ["'-2", "-2", ""],
        ['a "b", c', "0", "1e-20"],
    ]
    whole = json.loads(files["json"])
    assert whole["query_id"] == HOSTILE
    assert [tuple(cells) for cells in whole["rows"]] == list(rows)
    assert whole["series"][1]["marks"][0]["says"] == "three"


def test_without_matplotlib_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    found = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.split(".")[0] == "matplotlib":
            raise ModuleNotFoundError(name)
        return found(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install 'rayinfluence\[plot\]'"):
        refuse_no_matplotlib()


def test_letters_that_no_font_has_are_said() -> None:
    assert draw_files(figure("\u6c34")).has_boxes  # water
    assert not draw_files(figure()).has_boxes


def test_layers_without_a_number_are_not_drawn() -> None:
    results = make_results([row(layer_scores=[("h.3.mlp", float("nan"))])])
    assert pictures_of("layers", Seen.of(results, "q", 5), {}) == []


def test_what_has_no_room_is_named() -> None:
    results = make_results([row(rank=rank, scan_rank=rank) for rank in (1, 2)])
    seen = Seen.of(results, "q", 20)
    whole = Page(pictures_section(seen, {"ekfac": results}, 10**6))
    assert [a["class"] for name, a in whole.elements if name == "figure"] == [
        "picture of-layers",
        "picture of-tokens",
        "picture of-rescoring",
    ]
    assert "want of room" not in whole.text
    size = len(draw(pictures_of("layers", seen, {})[0]))
    some = Page(pictures_section(seen, {"ekfac": results}, size))
    assert len(some.of_class("picture .*")) == 1
    assert "Not on this page for want of room: tokens, rescoring." in some.text
    nothing = make_results([])
    assert pictures_section(Seen.of(nothing, "q", 20), {}, 10**6) == ""
