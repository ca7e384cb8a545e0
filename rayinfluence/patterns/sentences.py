"""What is found of questions, in words and tables: for the terminal, and for the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rayinfluence.display import Column, Part, Table
from rayinfluence.patterns.found import Flowing, Found, Group
from rayinfluence.patterns.line import SKIP
from rayinfluence.patterns.refine import Pattern
from rayinfluence.report.text import one_line, percent, shorten, signed

#: Of a text, what stands in a line.
_TEXT = 100


@dataclass(frozen=True)
class Grid:
    """Rows under heads; the first cell of each is what it is about.

    Attributes:
        title: over it.
        heads: of its columns.
        rows: as many cells each.
    """

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def heading(found: Found) -> str:
    """What was asked of what."""
    return f"Influence patterns of {found.model}"


def about(found: Found) -> str:
    """From where to where lines go."""
    return (
        f"from {found.baseline} to the embedding of each token, over {found.points} points of the "
        "line"
    )


def asked(flowing: Flowing) -> str:
    """The question, and what the model prefers."""
    question = flowing.question
    text = shorten("".join(question.texts), _TEXT, keep="end")
    return (
        f"{one_line(question.query_id)}: {text}; {one_line(question.right_text)!r} over "
        f"{one_line(question.wrong_text)!r} by {signed(flowing.value)} logits "
        f"({signed(flowing.value_at_baseline)} where lines begin)"
    )


def carried(flowing: Flowing) -> Iterator[str]:
    """How much patterns carry, and how far to trust that."""
    whole, tokens = flowing.concentration(), flowing.concentration(by_positions=True)
    if whole is not None and tokens is not None:
        yield (
            f"of the influence of all tokens in size, {_share(tokens)} flows through the tokens of "
            f"their patterns, and {_share(whole)} through these by one way into each"
        )
    if flowing.is_rough:
        yield (
            f"warning: influences add up to {signed(flowing.integral)}, and the logits differ by "
            f"{signed(flowing.value - flowing.value_at_baseline)}: the line bends more than its "
            "points tell. Take more `--points`."
        )


def paths(flowing: Flowing) -> Grid:
    """The pattern of every token, the most influential first."""
    return Grid(
        "patterns",
        ("token", "influence", "through tokens", "by ways", "pattern"),
        tuple(
            (
                name(flowing, one.start),
                signed(one.whole),
                signed(one.by_positions),
                signed(one.influence),
                path(flowing, one),
            )
            for one in flowing.strongest()
        ),
    )


def path(flowing: Flowing, pattern: Pattern) -> str:
    """A pattern's ways block by block, and the tokens that heads lead to."""
    steps = [
        "skip" if way == SKIP else f"head {way} to {name(flowing, position)}"
        for way, position in zip(pattern.ways, pattern.positions[1:], strict=True)
    ]
    return ", ".join(steps)


def name(flowing: Flowing, position: int) -> str:
    """A token by its number and its text."""
    return f"{position} {one_line(flowing.question.texts[position])}"


def ways(flowing: Flowing) -> Grid:
    """The skip connection against all heads, block by block."""
    rows = []
    for block, share in enumerate(flowing.skip_shares):
        taken = sum(one.ways[block] == SKIP for one in flowing.patterns)
        rows.append(
            (
                str(block + 1),
                signed(flowing.by_skip[block]),
                signed(flowing.by_heads[block]),
                "" if share is None else percent(share),
                f"{taken} of {len(flowing.patterns)}",
            )
        )
    heads = ("block", "by skip", "by heads", "skip's share in size", "patterns that skip")
    return Grid("skip connections and heads", heads, tuple(rows))


def alike(group: Group) -> str:
    """What questions of a group have in common."""
    n = len(group.query_ids)
    return (
        f"{n} queries of {group.n_tokens} tokens, asked at {group.position}: "
        f"{percent(group.accuracy)} are right; patterns of a token differ by "
        f"{group.entropy:.2f} bits over queries ({group.entropy_of_tokens:.2f} by their tokens)"
    )


def cautions(group: Group) -> Iterator[str]:
    """What to think of before a group's figures are believed."""
    if group.compressed and group.one_answer:
        yield (
            "warning: the same word is right in all of these queries, so averages over them hold "
            "the answer, and the compression test shows nothing. Ask as often for the other."
        )


def compression(group: Group) -> Grid:
    """The compression test; without rows where there was none."""
    heads = ("kept", "by", "others hold", "nodes", "right", "as the whole model")
    rows = tuple(
        (
            one.level,
            one.method,
            one.stand_in,
            f"{one.nodes:.1f}",
            percent(one.accuracy),
            percent(one.agreement),
        )
        for one in group.compressed
    )
    return Grid("compression", heads, rows)


def parts(found: Found) -> list[Part]:
    """All of it, one below the other."""
    shown: list[Part] = [heading(found), about(found)]
    for flowing in found.flowing:
        grids = [_table(grid(flowing)) for grid in (paths, ways)]
        shown += ["", asked(flowing), *carried(flowing), *grids]
    for group in found.groups:
        if group.compressed:
            shown += ["", alike(group), *cautions(group), _table(compression(group))]
    return shown


def _table(grid: Grid) -> Table:
    return Table(
        [Column(head, number=_is_number(grid.rows, at)) for at, head in enumerate(grid.heads)],
        grid.rows,
    )


def _is_number(rows: Sequence[tuple[str, ...]], at: int) -> bool:
    return all(
        row[at].strip("%").replace(",", "").lstrip("+-").replace(".", "").isdigit() for row in rows
    )


def _share(share: float) -> str:
    return percent(share) if 0 <= share <= 1 else f"{share:.0%}"
