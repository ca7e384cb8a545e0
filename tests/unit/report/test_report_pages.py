"""Pages of a report: one or several, their addresses, what is at a glance, and what is folded."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from made_up_results import (
    HOSTILE,
    OUR_ATTRIBUTES,
    OUR_TAGS,
    Page,
    both_sides,
    full_results,
    hostile_results,
    make_results,
    page_of,
    query,
    row,
)

from rayinfluence.cli.showing import write_report
from rayinfluence.report import Overview, render_page, render_report
from rayinfluence.report.hits import folded
from rayinfluence.storage.results import Results
from rayinfluence.storage.store import Store


def pages_of(results: Results, **options: Any) -> dict[str, str]:
    return dict(render_report({results.method: results}, "report.html", "report", **options))


def asked(name: str, digest: str = "", **changes: Any) -> dict[str, Any]:
    return query(name, digest=digest or hashlib.sha256(name.encode()).hexdigest()[:32], **changes)


def ids(page: str) -> list[str]:
    return [a["id"] or "" for _, a in Page(page).elements if "id" in a]


# One page, or several.


def test_what_one_page_has_room_for_is_on_one() -> None:
    results = full_results(3)
    assert pages_of(results) == {"report.html": render_page({"ekfac": results})}


def test_what_is_too_heavy_for_one_page_is_on_pages_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    results = full_results(3)
    size = len(render_page({"ekfac": results}).encode())
    monkeypatch.setattr("rayinfluence.report.page._ALL_BYTES", size)
    assert list(pages_of(results)) == ["report.html"]
    monkeypatch.setattr("rayinfluence.report.page._ALL_BYTES", size - 1)
    assert len(pages_of(results)) == 4


def test_many_hits_are_on_pages_of_their_own_beside_an_index() -> None:
    results = full_results(4, n=5)
    pages = pages_of(results, per_side=400)
    *queries, index = pages
    assert index == "report.html"
    assert len(queries) == 4
    assert all(re.fullmatch(r"report/q[0-9a-f]{12}\.html", name) for name in queries)
    assert not Page(pages[index]).of_class("card")
    for name in queries:
        page = Page(pages[name])
        assert len(page.of_class("card")) == 10
        assert len(page.of_class("query")) == 1
        back = [a["href"] or "" for tag, a in page.elements if tag == "a"]
        assert {h for h in back if not h.startswith("#")} == {
            "../report.html",
            *(f"../report.html#{part}" for part in ("trust", "reading", "run")),
        }


def test_links_of_an_index_reach_its_pages() -> None:
    pages = pages_of(full_results(301, n=1))
    index = Page(pages["report.html"])
    links = [a["href"] or "" for tag, a in index.elements if tag == "a"]
    there = {f"{name}#{one}" for name, page in pages.items() for one in ids(page)}
    beyond = {link for link in links if not link.startswith("#")}
    assert len({link.split("#")[0] for link in beyond}) == 301
    assert beyond <= there
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids(pages["report.html"]))


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_warnings_of_the_run_stand_once_and_its_other_pages_lead_there(n: int) -> None:
    results = full_results(2, n=1)
    results.manifest["warnings"] = [f"corpus: {one} rows are no documents." for one in range(n)]
    *queries, index = pages_of(results, per_side=1000).values()
    assert len(queries) == 2
    assert index.count("<b>Warning:</b> corpus: ") == n
    assert ("warnings" in ids(index)) is (n > 0)
    label = f"{n} warning{'s' * (n != 1)} of the run"
    for page in queries:
        assert "rows are no documents" not in page
        assert page.count(f'<a href="../report.html#warnings">{label}</a>') == (n > 0)


def test_several_pages_are_the_same_bytes_again() -> None:
    assert pages_of(full_results(301, n=1)) == pages_of(full_results(301, n=1))


def test_pages_of_queries_that_are_gone_are_deleted_and_no_others(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    write_report(store, {"ekfac": full_results(301, n=1)})
    assert len(list((tmp_path / "report").iterdir())) == 301
    (tmp_path / "report" / "notes.html").write_text("mine")
    write_report(store, {"ekfac": full_results(2, n=1)})
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["notes.html"]
    assert (tmp_path / "report.html").exists()


# Addresses.


def test_addresses_of_hits_stay_when_queries_are_added() -> None:
    rows = both_sides("b")
    alone = page_of(make_results(rows, [asked("b")]))
    more = page_of(make_results([*both_sides("a"), *rows], [asked("a"), asked("b")]))
    cards = {a["id"] for a in alone.of_class("card")}
    assert len(cards) == 6
    assert cards < {a["id"] for a in more.of_class("card")}
    start = f"q{asked('b')['digest'][:12]}-"
    assert all(str(one).startswith(start) for one in cards)


def test_what_is_asked_twice_has_two_addresses() -> None:
    queries = [asked("a", "1" * 32), asked("b", "1" * 32)]
    page = page_of(make_results([*both_sides("a"), *both_sides("b")], queries))
    assert [a["id"] for a in page.of_class("query")] == ["q" + "1" * 12, "q" + "1" * 12 + "-2"]


def test_methods_and_equal_texts_have_addresses_of_their_own() -> None:
    same = [row(rank=n, document_id="d", sequence_id=n) for n in (1, 2)]
    results = [make_results(same, [asked("q")], method=name) for name in ("ekfac", "bm25")]
    found = [a["id"] for a in page_of(*results).of_class("card")]
    assert len(found) == len(set(found)) == 4


# What is at a glance.


def test_all_questions_are_in_a_table_with_what_the_model_makes_of_them() -> None:
    warned = asked("b", greedy=False, warning="hardly", log_probability=-8.0)
    sums = {"n_sequences": 9, "n_positive": 5, "n_negative": 4, "negative_sum": -1.0}
    statistics = [{"query_id": "a", "positive_sum": 480.0, **sums}]
    results = make_results(
        [*both_sides("a"), *both_sides("b")], [asked("a"), warned], statistics=statistics
    )
    text = page_of(results).text
    assert "aThe capital of Tresk is Belmora47%yesbooks25%" in text
    assert "bThe capital of Tresk is Belmora2%noyesbooks" in text
    assert "All questions" not in page_of(full_results(1)).text


def test_documents_that_lead_several_questions_are_named_once() -> None:
    rows = [
        row("a", 1, document_id="both"),
        row("a", 2, document_id="both", sequence_id=5),
        row("a", 3, document_id="one"),
        row("b", 2, document_id="both"),
    ]
    text = page_of(make_results(rows, [asked("a"), asked("b")])).text
    assert "Documents among the first 10 of several questions" in text
    assert "first inbest rankbothbooksbooks.jsonl221" in text


def test_the_page_s_overview_is_the_terminal_s() -> None:
    """Shares are of the scan's scores, which another score at full rank does not change."""
    rows = [row("a", 1, score=900.0, scan_score=100.0), row("b", 1, score=-0.0)]
    sums = {"n_sequences": 9, "n_positive": 5, "n_negative": 4, "negative_sum": -1.0}
    statistics = [{"query_id": "a", "positive_sum": 400.0, **sums}]
    results = make_results(rows, [asked("a"), asked("b")], statistics=statistics)
    assert "yesbooks25%" in page_of(results).text
    assert "top share" not in page_of(make_results(rows, [asked("a"), asked("b")])).text
    assert Overview.of(results).queries[0].top_1_share == 0.25


@pytest.mark.parametrize("per_side", [2, 3])
def test_a_document_s_link_leads_to_its_best_hit_or_to_that_query(per_side: int) -> None:
    rows = [
        *(row(name, n, content_digest="cd" * 16) for name in "ab" for n in (1, 2)),
        row("a", 4, document_id="shared"),
        row("b", 3, document_id="shared"),
    ]
    results = make_results(rows, [asked("a"), asked("b")])
    page = render_page({"ekfac": results}, per_side=per_side)
    [link] = re.findall(r'<a href="#([\w-]+)"><bdi>shared</bdi></a>', page)
    of_b = f"q{asked('b')['digest'][:12]}"
    assert link.startswith(of_b)
    assert (link == of_b) is (per_side == 2)
    assert link in ids(page)


# Hits.


def test_near_copies_stand_under_what_they_copy() -> None:
    first = 2**32 + 1
    rows = [row(rank=n, near_duplicate_of=first if n in (3, 4) else None) for n in range(1, 6)]
    results = make_results(rows)
    hits = results.proponents("q")
    assert [(one.rank, [c.rank for c in copies]) for one, copies in folded(hits)] == [
        (1, [3, 4]),
        (2, []),
        (5, []),
    ]
    page = page_of(results)
    assert "and 2 near copies" in page.text
    assert len(page.of_class("card")) == 5
    # Without what they copy they stand by themselves.
    assert [one.rank for one, _ in folded(hits[1:])] == [2, 3, 4, 5]


def test_a_hit_is_cited_with_what_finds_it_again() -> None:
    results = make_results([row()], [asked("q", "ab" * 16)], fingerprint="cd" * 16)
    assert (
        "document-1 in books.jsonl, row 1, characters 0 to 12; proponent 1, score +120 by ekfac; "
        f"query q ({'ab' * 16}); results {'cd' * 16}."
    ) in page_of(results).text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"delta_nats": 0.25}, "would become 1.28 times as likely, to first order."),
        ({"delta_nats": 0.001}, "would hardly change (by less than half a percent)"),
        ({"delta_nats": 3.0, "beyond_linear": True}, "by how much is not."),
    ],
)
def test_the_strongest_hit_is_said_in_words(changes: dict[str, Any], said: str) -> None:
    page = page_of(make_results([row(**changes)]))
    assert "The strongest, document-1 (books)" in page.text
    assert said in page.text
    assert "20.1 times" not in page.text


# Hostile text.


def test_hostile_text_is_data_on_every_page() -> None:
    for name, text in pages_of(hostile_results(), per_side=2000).items():
        page = Page(text)
        assert re.fullmatch(r"report(/q[0-9a-f]{12})?\.html", name)
        assert {tag for tag, _ in page.elements} <= set(OUR_TAGS.split())
        attributes = {key for _, a in page.elements for key in a}
        assert attributes <= set(OUR_ATTRIBUTES.split())
        assert all(re.fullmatch(r"[\w-]+", str(a["id"])) for _, a in page.elements if "id" in a)
        links = [str(a["href"]) for tag, a in page.elements if tag == "a"]
        assert all(re.fullmatch(r"(\.\./)?[\w/.]*(#[\w-]+)?", link) for link in links)


def test_a_page_allows_its_own_style_and_script_alone() -> None:
    page = render_page({HOSTILE: hostile_results()})
    policy = re.search(r'content="(default-src[^"]*)"', page)
    assert policy is not None
    for name in ("style", "script"):
        [body] = re.findall(rf"<{name}[^>]*>(.*?)</{name}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{name}-src &#x27;sha256-{digest}&#x27;" in policy.group(1)
    # A fingerprint that is none is no part of the style.
    assert "alert(1)" not in page.split("</style>")[0].split("<style>")[1]


def test_printed_pages_say_which_results_they_are_of() -> None:
    page = render_page({"ekfac": make_results([row()], fingerprint="cd" * 16)})
    assert f'@bottom-left {{ content: "rayinfluence results {"cd" * 16}"; }}' in page


def test_a_page_reads_without_script() -> None:
    """Whatever the script finds and orders is in the page as text."""
    page = full_results(2)
    text = page_of(page).text
    for query_id in page.queries:
        hits: Sequence[Any] = [*page.proponents(query_id), *page.opponents(query_id)]
        assert all(hit.text.split()[-1] in text and hit.document_id in text for hit in hits)
    assert "<template" not in render_page({"ekfac": page})
    assert not Page(render_page({"ekfac": page})).of_class("tools")
