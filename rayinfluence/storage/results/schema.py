"""The tables of results: their columns, each with what it means and its unit.

A change of these that a reader must know of raises :data:`SCHEMA_VERSION`.

What a score is, and its unit, is its method's affair. An influence is in the raw scale of MATH (no
1/N); ``delta_nats`` is score / N, the predicted change of what the query asks for (a completion's
log-probability) in nats, when the sequence is seen once more. Both are at full rank; ``scan_score``
and ``scan_rank`` are what the scan found at the rank of its query bank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from rayinfluence.objective_kinds import REGRESSION
from rayinfluence.storage.metadata import Kinds, fields
from rayinfluence.storage.results.meaning import ITSELF_ID, Meaning

SCHEMA_VERSION = 2
#: Of the tables of all methods.
QUERIES, SEQUENCES = "queries.parquet", "sequences.parquet"
#: A linear prediction of a larger change than this, in nats, is none.
LINEAR_RANGE = 0.5

_NATS = "nats"
_FIRST_INFLUENCES = (
    "scan.token_influences of a direction, and by a method whose scores are no derivative."
)
#: Stands for the unit of a method's scores, until it is known (:func:`of_method`).
_RAW = "that of score"
_PER_LENGTH = "that of score, per unit of length of an embedding"


def method_tables(method: str) -> tuple[str, str, str, str]:
    """Names of a method's tables: survivors, sums per group, statistics and tails."""
    return (
        f"{method}.parquet",
        f"{method}-groups.parquet",
        f"{method}-statistics.parquet",
        f"{method}-tails.parquet",
    )


def _field(name: str, kind: pa.DataType, description: str, unit: str | None = None) -> pa.Field:
    about = {"description": description}
    return pa.field(name, kind, metadata=about | ({"unit": unit} if unit else {}))


QUERY_ID = _field("query_id", pa.string(), "The query's id, as its author gave it.")
SEQUENCE_ID = _field(
    "sequence_id", pa.int64(), "The sequence: shard ordinal * 2^32 + row in the shard."
)


def of_method(schema: pa.Schema, meaning: Meaning) -> pa.Schema:
    """A schema with the unit that a method's scores have."""
    raw, unit = {b"unit": _RAW.encode()}, {b"unit": meaning.unit.encode()}
    return pa.schema(
        [
            field.with_metadata({**field.metadata, **unit})
            if raw.items() <= field.metadata.items()
            else field
            for field in schema
        ]
    )


def survivor_schema(meaning: Meaning) -> pa.Schema:
    """Of a method's survivors: a row per query and sequence, in order of queries and ranks."""
    scores = pa.list_(pa.float32())
    if meaning.of_itself:
        direction = "proponent: training on a sequence makes itself more likely."
    elif meaning.directed:
        direction = (
            "proponent or opponent, by the sign of the scan's score: training on a proponent "
            "raises what the query asks for, and so makes a completion more likely."
        )
    else:
        direction = "proponent, or opponent where the scan's score is below zero."
    about = (
        "what position t carries: above all the prediction of token t + 1, and through attention "
        "those after it."
        if meaning.of_predictions
        else "what token t carries."
    )
    what = "its own log-probability" if meaning.of_itself else "what the query asks for"
    schema = pa.schema(
        [
            QUERY_ID,
            SEQUENCE_ID,
            _field("rank", pa.int32(), "From 1, by score and then sequence_id, in a direction."),
            _field(
                "direction",
                pa.string(),
                direction,
            ),
            _field("score", pa.float64(), "The score at full rank.", _RAW),
            _field(
                "delta_nats",
                pa.float64(),
                f"score / N: the predicted change of {what} when the sequence is seen once more. "
                "Null by a method that predicts none, and where that is neither a log-probability "
                "nor a difference of such.",
                _NATS,
            ),
            _field(
                "beyond_linear",
                pa.bool_(),
                "delta_nats is no prediction: it would take a probability beyond 1, or change what "
                f"is asked for by more than {LINEAR_RANGE} nats. Null where delta_nats is.",
            ),
            _field("scan_rank", pa.int32(), "The rank that the scan found, at its own rank."),
            _field("scan_score", pa.float64(), "What the scan found, at its own rank.", _RAW),
            _field(
                "suspect",
                pa.bool_(),
                "The scan's score did not come out again, within a tenth, in other batches.",
            ),
            _field(
                "near_duplicate_of",
                pa.int64(),
                "The best-ranked sequence of the same query and direction with which it shares "
                "80 % of its token 5-grams; null where there is none.",
            ),
            _field(
                "concentration",
                pa.float64(),
                "How the score is spread over tokens: 0 evenly, 1 on a single one. Null without "
                "token scores or with fewer than four predictions.",
            ),
            _field(
                "carried_by",
                pa.int32(),
                "The place in the sequence's token_texts of the token that outweighs all others "
                "together; null where none does.",
            ),
            _field(
                "carrier_in_completion",
                pa.bool_(),
                "Whether the completion has that token, with or without white space around it.",
            ),
            _field(
                "layer_scores",
                pa.map_(pa.string(), pa.float32()),
                "The score by tracked module; they add up to it. Empty where the method has none.",
                _RAW,
            ),
            _field(
                "token_scores",
                scores,
                f"The score by token; entry t is {about} Null beyond the first scan.token_scores "
                "of a direction.",
                _RAW,
            ),
            _field(
                "output_token_influences",
                scores,
                "The score by predicted token (Grosse et al. 2023, equations 34 to 36); entry t is "
                "how fast the log-probability of token t + 1 itself, given those before it, rises "
                "as the weights move along the query's direction. They add up to the score. Null "
                f"beyond the first {_FIRST_INFLUENCES}",
                _RAW,
            ),
            _field(
                "input_token_influences",
                scores,
                "By token as it is read (equations 37 and 38): entry t is how fast the score grows "
                "as the embedding of token t does, whichever predictions it goes by. They do not "
                f"add up to the score. Null beyond the first {_FIRST_INFLUENCES}",
                _RAW,
            ),
            _field(
                "embedding_influences",
                scores,
                "By token as it is read: entry t is how fast the score changes, at the most, as "
                "the embedding of token t moves, in whichever direction (the length of Koh & Liang "
                f"2017's influence of perturbing an input). Null beyond the first "
                f"{_FIRST_INFLUENCES}",
                _PER_LENGTH,
            ),
            _field(
                "pair_scores",
                pa.list_(pa.list_(pa.float64())),
                "The score by part of the query's completion (part_ends) and by token: entry "
                "[c][t] is what part c alone has to do with what token_scores[t] is about. Over "
                "parts they add up to token_scores (but for what a contrast's rather_than, or by a "
                "method of texts the prompt, adds), over tokens to the part's own score. Null "
                "beyond the first scan.pair_scores of a direction, and where the query has no "
                "parts.",
                _RAW,
            ),
        ]
    )
    return of_method(schema, meaning)


def sequence_schema(kinds: Kinds) -> pa.Schema:
    """Of the sequences that survived for any query by any method: a row each, by their ids.

    Args:
        kinds: of their metadata.
    """
    return pa.schema([*SEQUENCE_FIELDS, *fields(kinds, "the document")])


SEQUENCE_FIELDS = (
    SEQUENCE_ID,
    _field("content_digest", pa.string(), "Of the token ids: equal text, equal digest."),
    _field(
        "document_file",
        pa.string(),
        "The document's file: the end of its address, as long as it takes to tell the corpus's "
        "files apart. Null where the shard came without files.",
    ),
    _field("document_id", pa.string(), "The document's id, which is unique in its file."),
    _field(
        "document_row",
        pa.int64(),
        "The document's line or row in its file, from 1. Null where the shard does not say.",
    ),
    _field("shard", pa.string(), "The object of the corpus that holds the sequence."),
    _field("row", pa.int64(), "Its row there, from 0."),
    _field("n_tokens", pa.int32(), "How many tokens it has.", "tokens"),
    _field("token_start", pa.int64(), "The document's tokens before it.", "tokens"),
    _field("char_start", pa.int64(), "Where it begins in the document.", "characters"),
    _field("char_end", pa.int64(), "Where it ends in the document.", "characters"),
    _field("text", pa.string(), "The sequence as text: its token_texts, joined."),
    _field("tokens", pa.list_(pa.int32()), "Its token ids."),
    _field("token_texts", pa.list_(pa.string()), "The text that each token adds."),
    _field(
        "text_before",
        pa.string(),
        "What stands before it in its document, at most scan.surroundings characters of the "
        "sequence before; null where nothing does.",
    ),
    _field("text_after", pa.string(), "What stands after it, likewise."),
)


def query_schema(kinds: Kinds) -> pa.Schema:
    """Of the queries: a row each, in their order.

    Args:
        kinds: of their metadata.
    """
    return pa.schema([*_QUERY_FIELDS, *fields(kinds, "the query")])


_QUERY_FIELDS = (
    QUERY_ID,
    _field("digest", pa.string(), "Of all that decides its gradient: tokens, and how they count."),
    _field("objective", pa.string(), "What is asked for, f, in words."),
    _field(
        "unit",
        pa.string(),
        "Of f: nats or logits, or either per token, or that of query_function. Scores by methods "
        "whose unit has nats have this in their place.",
    ),
    _field("value", pa.float64(), "f, by the model.", "that of unit"),
    _field(
        "measurement",
        pa.string(),
        "What f takes of each token that counts, or class: log_probability, logit or margin; null "
        "where query_function decides.",
    ),
    _field(
        "prompt",
        pa.string(),
        "What the model was given; this and what follows is null of a set, and"
        " in the row of self_influence.",
    ),
    _field("completion", pa.string(), "What it said, or would say."),
    _field("rather_than", pa.string(), "Of a contrast, what it would say instead."),
    _field(
        "rather_than_log_probability",
        pa.float64(),
        "log p(rather_than | prompt) by the model, summed over its tokens.",
        _NATS,
    ),
    _field("tokens", pa.list_(pa.int32()), "Token ids of the prompt and the completion."),
    _field("n_completion_tokens", pa.int32(), "How many of them, at the end, are the completion."),
    _field(
        "log_probability",
        pa.float64(),
        "log p(completion | prompt) by the model, summed over the completion's tokens that count.",
        _NATS,
    ),
    _field("token_texts", pa.list_(pa.string()), "The completion's tokens as text."),
    _field(
        "token_log_probabilities",
        pa.list_(pa.float64()),
        "The log-probability of each of them, given those before it.",
        _NATS,
    ),
    _field(
        "token_ranks",
        pa.list_(pa.int64()),
        "The place of each of them among all tokens, by probability; 1 is the first choice.",
    ),
    _field("token_counts", pa.list_(pa.bool_()), "Whether each of them counts; see spans."),
    _field(
        "part_ends",
        pa.list_(pa.int32()),
        "Where the parts of the completion end that pair_scores are of, counted in token_texts: "
        "they follow each other, and mostly are a token each. Null where there are none.",
    ),
    _field("greedy", pa.bool_(), "Whether all that count are the model's first choice."),
    _field(
        "set",
        pa.list_(
            pa.struct(
                [
                    ("weight", pa.float64()),
                    ("prompt", pa.string()),
                    ("completion", pa.string()),
                    ("spans", pa.list_(pa.list_(pa.int32()))),
                    ("n_counted", pa.int32()),
                    ("log_probability", pa.float64()),
                ]
            )
        ),
        "Of a set, its completions: weight in the sum, texts, which characters count (all where "
        "there are no spans), how many tokens do, and their log-probability in nats.",
    ),
    _field("warning", pa.string(), "That the model would hardly say it; null where it would."),
)
#: Of the ``top`` proponents ``in_top`` are in the group; ``lift`` is that share over the group's
#: share of the corpus. Within a query and column the largest lift comes first.
GROUP_SCHEMA = pa.schema(
    [
        QUERY_ID,
        _field("column", pa.string(), "The metadata key that groups."),
        _field("value", pa.string(), "Its value: a string as it is, other values as JSON."),
        _field(
            "value_type",
            pa.string(),
            "string, number, boolean, list or object; missing: without the key; other: all values "
            "that have no group of their own.",
        ),
        _field("n_sequences", pa.int64(), "Scanned sequences of the group.", "sequences"),
        _field("share_of_corpus", pa.float64(), "Their share of all scanned sequences."),
        _field("positive_sum", pa.float64(), "The sum of their positive scores.", _RAW),
        _field("negative_sum", pa.float64(), "The sum of their negative scores.", _RAW),
        _field("mean_score", pa.float64(), "The mean of their scores.", _RAW),
        _field("mean_score_error", pa.float64(), "Its standard error; null for one.", _RAW),
        _field("top", pa.int64(), "The first proponents that are looked at.", "sequences"),
        _field("in_top", pa.int64(), "How many of those are in the group.", "sequences"),
        _field("lift", pa.float64(), "The group's share of the top over share_of_corpus."),
        _field("lift_low", pa.float64(), "The lower end of its 95 % interval (Wilson)."),
        _field("lift_high", pa.float64(), "The upper end of it."),
    ]
)
STATISTICS_SCHEMA = pa.schema(
    [
        QUERY_ID,
        _field("n_sequences", pa.int64(), "Scanned sequences.", "sequences"),
        _field("n_positive", pa.int64(), "How many have a positive score.", "sequences"),
        _field("n_negative", pa.int64(), "How many have a negative one.", "sequences"),
        _field("positive_sum", pa.float64(), "The sum of the positive scores.", _RAW),
        _field("negative_sum", pa.float64(), "The sum of the negative ones.", _RAW),
        _field(
            "top_1_percent_share",
            pa.float64(),
            "The share of positive_sum that the ceil(n_sequences / 100) largest scores hold.",
        ),
        _field("top_1_percent_share_error", pa.float64(), "What that is right to."),
        _field(
            "tail_exponent",
            pa.float64(),
            "Of a power law fitted to those: density ~ score^-tail_exponent. Null, as what "
            "follows is, where no score is positive or all that would be fitted lie in one bin.",
        ),
        _field("tail_exponent_error", pa.float64(), "Its standard error."),
        _field("tail_start", pa.float64(), "The smallest score that it is fitted to.", _RAW),
        _field("tail_count", pa.int64(), "How many scores it is fitted to.", "sequences"),
    ]
)
TAIL_SCHEMA = pa.schema(
    [
        QUERY_ID,
        _field("sign", pa.int8(), "1 or -1: of the scores that are counted."),
        _field("lower", pa.float64(), "The lower end of a bin of |score|.", _RAW),
        _field("upper", pa.float64(), "Its upper end.", _RAW),
        _field("count", pa.int64(), "How many scores are in it.", "sequences"),
        _field("sum", pa.float64(), "The sum of their sizes.", _RAW),
    ]
)


def in_version(schema: pa.Schema, fingerprint: str) -> pa.Schema:
    """A schema that says which results it is of, and which version of the schema it is."""
    return schema.with_metadata(
        {
            "rayinfluence.schema_version": str(SCHEMA_VERSION),
            "rayinfluence.fingerprint": fingerprint,
        }
    )


def beyond_linear(delta_nats: float, log_probability: float | None, ceiling: float = 0.0) -> bool:
    """Whether a change in nats, of one sequence or of several, is out of the linear range.

    Args:
        delta_nats: the predicted change of what a query asks for.
        log_probability: what that is by the model, in nats, where it is a log-probability.
        ceiling: which that cannot be above.
    """
    above = log_probability is not None and log_probability + delta_nats > ceiling
    return above or abs(delta_nats) > LINEAR_RANGE


def is_itself(query: Mapping[str, Any]) -> bool:
    """Whether a row stands for the sequences themselves, which nothing was asked of.

    Args:
        query: its row.
    """
    asked = query.get("completion") is not None or query.get("set")
    return query.get("query_id") == ITSELF_ID and not asked


def is_predicted(query: Mapping[str, Any]) -> bool:
    """Whether a change of what is asked for is one of a log-probability, or of their difference.

    Args:
        query: its row; of results of earlier versions, which have no ``unit``, too.
    """
    weights = [member["weight"] for member in query.get("set") or ()]
    return query.get("unit") in (None, "nats") and all(abs(weight) == 1 for weight in weights)


def is_difference(query: Mapping[str, Any]) -> bool:
    """Whether a query asks for more than how likely completions are: for some against others.

    Completions of a set that all have the weight 1 are said to prompts of their own, so that their
    log-probabilities add up to that of all of them; with another weight it is of none.

    Args:
        query: its row.
    """
    weights = [member["weight"] for member in query.get("set") or ()]
    if query.get("measurement") == "margin":  # log-odds, against all others
        return True
    return query.get("rather_than") is not None or any(weight != 1 for weight in weights)


def log_probability_of(query: Mapping[str, Any]) -> float | None:
    """What a query asks for, in nats, where that is a log-probability; None elsewhere.

    Args:
        query: its row; of results of earlier versions, which have no ``value``, too.
    """
    if is_difference(query):
        return None
    value: float | None = query.get("value")
    return query.get("log_probability") if value is None else value


def ceiling_of(query: Mapping[str, Any], kind: str | None) -> float:
    """What a log-probability that a query asks for cannot be above, in nats.

    0; of a regression each row's is the log-density of a normal distribution of variance 1, which
    is -log(2 pi) / 2 at its mean.

    Args:
        query: its row.
        kind: of the model's objective.
    """
    if kind != REGRESSION:
        return 0.0
    return -0.5 * math.log(2 * math.pi) * len(query.get("set") or (query,))
