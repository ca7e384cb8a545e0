"""Probes for people: texts of no corpus, each with its score and which tokens carry it."""

from __future__ import annotations

from rich.text import Text

from rayinfluence.display import Column, Part, Table
from rayinfluence.report.lines import isolated
from rayinfluence.report.terminal import header, snippet, style
from rayinfluence.report.text import BEYOND, one_line, signed
from rayinfluence.storage.results import Partition, Probed, ProbedText, ProbeScore

#: Columns that numbers take.
_NUMBERS_WIDTH = 26


def probed_parts(probed: Probed, width: int) -> list[Part]:
    """A table for each query: texts, and the means of their partitions.

    Texts of a partition stand together, under its mean.
    """
    parts: list[Part] = []
    for query_id, query in probed.queries.items():
        parts.append(header(query, probed.method, width))
        parts.append(_table(probed, query_id, width))
        if any(score.beyond_linear for score in probed.scores[query_id]):
            parts.append(Text(BEYOND, "dim"))
        parts.append("")
    return parts


def _table(probed: Probed, query_id: str, width: int) -> Table:
    predicts = probed.meaning.predicts
    numbers = ["score", *(["delta nats"] if predicts else [])]
    columns = [*(Column(name, number=True) for name in numbers), Column("text", wide=True)]
    rows: list[list[Text]] = []
    pairs = list(zip(probed.texts, probed.scores[query_id], strict=True))
    ahead, room = probed.meaning.ahead, max(20, width - _NUMBERS_WIDTH)
    means = {one.name: one for one in probed.partitions(query_id)}
    for partition in dict.fromkeys(text.partition for text in probed.texts):
        if partition is not None:
            rows.append(_mean(means[partition], predicts))
        for text, score in pairs:
            if text.partition == partition:
                rows.append(_row(text, score, room, ahead, predicts))
    return Table(columns, rows)


def _mean(partition: Partition, predicts: bool) -> list[Text]:
    texts = f"mean of {partition.n_texts} texts" if partition.n_texts > 1 else "1 text"
    name = isolated(Text(one_line(partition.name), "bold")).append(f": {texts}")
    return [*(Text(number, "bold") for number in _numbers(partition, predicts)), name]


def _row(text: ProbedText, score: ProbeScore, width: int, ahead: int, predicts: bool) -> list[Text]:
    shown = snippet(text.token_texts, score.token_scores, width, ahead)
    if text.n_cut:
        n = len(text.tokens)
        said = f"\ncut: the first {n:,} of its {n + text.n_cut:,} tokens are scored"
        shown.append(said, "yellow")
    value, *delta = _numbers(score, predicts)
    return [Text(value, style(score.score)), *map(Text, delta), shown]


def _numbers(of: Partition | ProbeScore, predicts: bool) -> list[str]:
    """A score, and the change that it predicts, where the method predicts some."""
    if not predicts:
        return [signed(of.score)]
    if of.delta_nats is None:
        return [signed(of.score), "-"]
    return [signed(of.score), "beyond" if of.beyond_linear else signed(of.delta_nats)]
