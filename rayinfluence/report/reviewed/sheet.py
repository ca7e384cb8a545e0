"""What people fill in: a table for a spreadsheet, and a page that needs no network.

Neither says which method has found a text, or whether any has.
"""

from __future__ import annotations

import csv
import io

from rayinfluence.analysis.reviewed import Item, Review
from rayinfluence.analysis.reviewed.items import RELATIONS
from rayinfluence.analysis.reviewed.sheets import COLUMNS
from rayinfluence.report.frame import framed
from rayinfluence.report.markup import Html, join, tag
from rayinfluence.report.spreadsheet import safe_cells
from rayinfluence.report.text import count

#: How the page stands: a style and a script of its own.
_OWN = ("review.css", "review.js")


def sheet_csv(review: Review) -> str:
    """A row for each item, with empty answers."""
    file = io.StringIO()
    writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for one in review.items:
        question, answer = review.queries[one.query_id]
        cells = [review.export, one.item, "", "", "", question, answer, one.text]
        writer.writerow(safe_cells(cells))
    return file.getvalue()


def sheet_page(review: Review) -> str:
    """The same as one HTML document, which gives answers back as CSV.

    Equal reviews give equal text. Texts are escaped, and the page's own policy forbids requests of
    any kind and scripts other than its own.
    """
    total = len(review.items)
    head = tag(
        "header",
        tag("h1", "How do these texts relate to what was asked?"),
        tag(
            "p",
            f"{count(total)} texts, each beside a question and its answer. Say of each what it is "
            "about, and how it relates. Some may have nothing to do with it. Answers stay in this "
            "page until you download them: closing it loses them.",
        ),
        tag(
            "dl",
            *(join((tag("dt", name), tag("dd", said))) for name, said in RELATIONS.items()),
        ),
        tag("noscript", "Without scripts this page cannot give answers back: fill in sheet.csv."),
    )
    bar = tag(
        "div",
        tag("label", "Your name ", tag("input", type="text", id="rater", autocomplete="off")),
        tag("span", f"0 of {count(total)} answered", role="status", id="progress"),
        tag("button", "Next without an answer", type="button", id="next"),
        tag("button", "Download answers", type="button", id="download"),
        class_="bar",
    )
    items = [_item(review, one, place, total) for place, one in enumerate(review.items, start=1)]
    main = tag("main", *items, id="main", data_export=review.export)
    return framed("Review of texts", head, bar, main, fingerprint="", own=_OWN)


def _item(review: Review, one: Item, place: int, total: int) -> Html:
    question, answer = review.queries[one.query_id]
    asked = tag(
        "p",
        tag("bdi", question),
        tag("b", tag("bdi", answer)),
        class_="text asked",
    )
    return tag(
        "article",
        tag("h2", f"{count(place)} of {count(total)}", id=f"h{one.item}"),
        asked,
        tag("div", one.text, class_="text box", dir="auto"),
        _about(review, one),
        _choice(one, "relates", "How does it relate?", tuple(RELATIONS)),
        class_="item",
        data_item=one.item,
        aria_labelledby=f"h{one.item}",
    )


def _about(review: Review, one: Item) -> Html:
    if review.topics:
        return _choice(one, "about", "What is it about?", review.topics)
    return tag(
        "label",
        "What is it about? ",
        tag("input", type="text", name=f"about-{one.item}", autocomplete="off"),
        class_="about",
    )


def _choice(one: Item, name: str, asked: str, offered: tuple[str, ...]) -> Html:
    buttons = [
        tag(
            "label",
            tag("input", type="radio", name=f"{name}-{one.item}", value=value),
            " ",
            tag("bdi", value),
        )
        for value in offered
    ]
    return tag("fieldset", tag("legend", asked), *buttons)
