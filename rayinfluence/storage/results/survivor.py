"""One training sequence among a query's most influential, as Python sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rayinfluence.storage.metadata import as_text
from rayinfluence.text import visible_line

Direction = Literal["proponent", "opponent"]
#: Characters of its text that a sequence is told by.
_SHOWN = 60


@dataclass(frozen=True, repr=False)
class Survivor:
    """One training sequence among a query's most influential.

    ``score`` is the method's at full rank, such as the raw influence (positive raises the
    completion's log-probability), ``delta_nats`` the same divided by the number of training
    sequences, and no prediction where it is ``beyond_linear`` (both None by a method that predicts
    no change); ``scan_score`` and ``scan_rank`` are those of the scan, whose query gradients may be
    of low rank. ``token_scores`` has one number per token of ``token_texts`` where the run has it
    (``scan.token_scores``), ``layer_scores`` one per tracked module (none by a method of texts);
    both sum to the score up to rounding. What follows from token scores is None without them.

    ``output_token_influences`` (entry t of the prediction of token t + 1 alone; they sum to the
    score), ``input_token_influences`` (entry t of token t as it is read; they do not) and
    ``embedding_influences`` (entry t of how far a step of length one of that token's embedding may
    bring the score) are there where the run was asked for them (``scan.token_influences``).
    ``pair_scores`` [C][T], by part c of the query's completion (``part_ends`` of its row) and token
    t, are there for the first ``scan.pair_scores``: over parts they add up to ``token_scores``, up
    to rounding, over tokens to the score of the part.

    ``concentration`` says how the score is spread over tokens (0 evenly, 1 on a single one),
    ``carried_by`` is the place in ``token_texts`` of the token that outweighs all others, and
    ``carrier_in_completion`` whether the completion has it too. ``suspect``: the scan's score did
    not come out again in batches of other shapes.

    In results of several seeds ``score``, and all that is made of scores, is a mean over
    ``n_seeds`` of them; ``score_se`` and ``delta_nats_se`` are standard errors.

    ``document_id`` is unique in ``document_file``, which has the document in its ``document_row``;
    the sequence is its characters from ``char_start`` to ``char_end``, and ``text_before`` and
    ``text_after`` stand around it there (at most ``scan.surroundings`` characters; None where
    nothing does). ``metadata`` has the document's other columns, with the types that they have
    there.
    """

    query_id: str
    rank: int
    direction: Direction
    score: float
    delta_nats: float | None
    beyond_linear: bool | None
    scan_rank: int
    scan_score: float
    sequence_id: int
    content_digest: str
    document_file: str | None
    document_id: str
    document_row: int | None
    shard: str
    row: int
    n_tokens: int
    token_start: int
    char_start: int
    char_end: int
    metadata: Mapping[str, Any]
    text: str
    tokens: list[int]
    token_texts: list[str]
    token_scores: list[float] | None
    layer_scores: dict[str, float]
    concentration: float | None
    carried_by: int | None
    carrier_in_completion: bool | None
    suspect: bool
    near_duplicate_of: int | None
    #: Tables that were written before there were any do not have them.
    output_token_influences: list[float] | None = None
    input_token_influences: list[float] | None = None
    embedding_influences: list[float] | None = None
    text_before: str | None = None
    text_after: str | None = None
    pair_scores: list[list[float]] | None = None
    #: Of results of several seeds alone.
    score_se: float | None = None
    delta_nats_se: float | None = None
    n_seeds: int | None = None

    @property
    def carrier(self) -> str | None:
        """The text of the token that carries the score, where one does."""
        return None if self.carried_by is None else self.token_texts[self.carried_by]

    @property
    def source(self) -> str:
        """The ``source`` of its metadata, or an empty string."""
        return as_text(self.metadata.get("source", ""))

    def __repr__(self) -> str:
        names = " · ".join(filter(None, (self.source, self.document_id)))
        text = visible_line(f"{self.score:+.4g} by {names}: {self.text[:_SHOWN]!r}")
        return f"<Survivor {self.rank} of {visible_line(repr(self.query_id))}: {text}>"
