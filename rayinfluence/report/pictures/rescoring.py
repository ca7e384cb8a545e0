"""What scoring the hits again at full rank changed: by how much each score, and which rank."""

from __future__ import annotations

from rayinfluence.report.facts import rescoring as sentence
from rayinfluence.report.pictures.figure import Figure, Mark, Series, Tone, linear, logarithmic
from rayinfluence.report.pictures.seen import Seen
from rayinfluence.report.text import signed
from rayinfluence.storage.results import Survivor


def rescoring(seen: Seen) -> Figure | None:
    """By how much each score changed; None where there are no hits."""
    hits = [hit for hit in seen.hits if hit.scan_score]
    if not hits:
        return None
    sides: tuple[tuple[str, Tone], ...] = (("proponent", "raises"), ("opponent", "lowers"))
    dots = [
        Series(
            f"{direction}s",
            "points",
            tone,
            tuple(
                Mark.at(float(hit.scan_rank), _change(hit), _says(hit))
                for hit in hits
                if hit.direction == direction
            ),
        )
        for direction, tone in sides
    ]
    moved = sum(hit.rank != hit.scan_rank for hit in hits)
    title = sentence(seen.results, seen.query_id).removesuffix(".")
    return Figure(
        "rescoring",
        title or f"Scored again, {moved} of the {len(hits)} hits shown have another rank",
        logarithmic("rank in the scan", 1.0, max(2.0, *(float(hit.scan_rank) for hit in hits))),
        linear("change of the score, %", [_change(hit) for hit in hits]),
        tuple(one for one in dots if one.marks),
        (
            "A dot above 0 is a score that is larger in size when scored again. The scan sees all "
            "sequences with query gradients of low rank, the second pass its survivors at full "
            "rank. A sequence that the scan missed is not here.",
        ),
        ("direction", "sequence", "rank in the scan", "rank", "score in the scan", "score"),
        tuple(
            (h.direction, h.sequence_id, h.scan_rank, h.rank, h.scan_score, h.score) for h in hits
        ),
    )


def _change(hit: Survivor) -> float:
    """In per cent of the scan's score."""
    return 100 * (hit.score / hit.scan_score - 1)


def _says(hit: Survivor) -> str:
    return (
        f"{hit.direction}: {signed(hit.scan_score)} in the scan, then {signed(hit.score)} "
        f"({_change(hit):+.2g} %); rank {hit.scan_rank}, then {hit.rank}"
    )
