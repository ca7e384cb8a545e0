"""One question of a run that is there: its query is made and scanned, and all else is reused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rayinfluence.corpus.queries import rendered
from rayinfluence.corpus.query_forms import Answer, Query, queries_of
from rayinfluence.corpus.tokenizer import encode, token_texts
from rayinfluence.dataflow.begin.questions import Row, keep_question
from rayinfluence.dataflow.run import Run
from rayinfluence.errors import QueryError
from rayinfluence.guest import own_arithmetic
from rayinfluence.model.continuing import continuation, ends_of
from rayinfluence.objective_kinds import CAUSAL, KINDS
from rayinfluence.storage.results import Results

#: How messages call what was given on a command line.
PLACE = "the question"
#: What stands for bytes that are no character.
_REPLACEMENT = "\ufffd"


@dataclass(frozen=True)
class Generating:
    """That the model answers first.

    Attributes:
        n_tokens: how many it says at most.
        seed: of its draws; without it each token is the likeliest.
    """

    n_tokens: int
    seed: int | None = None


@own_arithmetic()
def answered(run: Run, row: Row, generating: Generating) -> dict[str, Any]:
    """A question whose completion is what the model says after its prompt.

    Args:
        run: whose model is asked.
        row: a query's, with a ``prompt`` of text or messages alone.
        generating: how much it says, and how.

    Raises:
        QueryError: the model is not causal, says nothing, or the prompt leaves no room for it.
    """
    kind = run.inputs.kind
    if kind != CAUSAL:
        raise QueryError(
            f"{PLACE}: --generate asks a causal model, and this is a {KINDS[kind].model}: give "
            "the completion after the prompt."
        )
    # Any completion will do, as what stands before it is what is asked for.
    [query] = queries_of({**row, "completion": "."}, PLACE)
    [asked] = rendered([query], run.tokenizer)
    prompt: Answer = asked.answers[0]
    [encoding] = encode(run.tokenizer, [prompt.prompt], [prompt.templated])
    given, replica = encoding.tokens, run.replica
    if not given:
        raise QueryError(f"{PLACE}: the prompt has no token that a model could go on from.")
    room = generating.n_tokens
    if replica.context is not None:
        room = min(room, replica.context - len(given))
    if room < 1:
        raise QueryError(
            f"{PLACE} has a prompt of {len(given):,} tokens, and the model's context is "
            f"{replica.context:,}, which leaves no room for an answer; shorten it."
        )
    ends = ends_of(replica.model, run.tokenizer.eos_token_id)
    said = continuation(replica.model, given, room, ends, generating.seed)
    completion = "".join(token_texts(run.tokenizer, [*given, *said])[len(given) :])
    completion = completion.rstrip(_REPLACEMENT)  # a character that was cut
    if not completion:
        raise QueryError(
            f"{PLACE}: the model ends the text after this prompt, or says what is no text; there "
            "is nothing to explain. Give a completion, or another prompt."
        )
    run.progress.note(f"answer       {completion!r}")
    [again] = encode(run.tokenizer, [prompt.prompt + completion], [prompt.templated])
    if again.tokens != [*given, *said]:
        run.progress.warn(
            "the answer is asked as a text, which is made of other tokens than the model "
            "has said it in"
        )
    return {**row, "completion": completion}


@dataclass(frozen=True)
class Asked:
    """What a question has found.

    Attributes:
        query_id: of it, in the results.
        results: of all queries of the run, by method.
    """

    query_id: str
    results: dict[str, Results]


@own_arithmetic()
def ask(run: Run, row: Row) -> Asked:
    """Ask one question of a run, whose query it is from then on.

    The corpus is scanned as it is tokenised, for what was not scanned for yet.

    Raises:
        QueryError: it is malformed, for this model; nothing is kept of it then.
        RayInfluenceError: as :meth:`rayinfluence.dataflow.run.Run.scan` does.
    """
    query: Query = queries_of(row, PLACE)[0]
    run.inputs = run.inputs.asking([query])
    run.begin(needs_queries=True)
    keep_question(run.store, row)
    return Asked(query.query_id, run.scan())
