"""All that a run leaves in its directory, and what of it `clean` deletes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rayinfluence.corpus.bad_files import BAD_FILES
from rayinfluence.corpus.fragments import FRAGMENTS
from rayinfluence.corpus.ordinals import LOG, OLD_MANIFEST
from rayinfluence.corpus.parts import PARTS, SURVEYS
from rayinfluence.corpus.quarantined_rows import QUARANTINE
from rayinfluence.corpus.rolled import ROLLED
from rayinfluence.corpus.shards import SHARDS
from rayinfluence.dataflow import layout, stage_names
from rayinfluence.storage import results

#: Folders that a corpus consists of.
IN_CORPUS = (LOG, FRAGMENTS, ROLLED, SHARDS, BAD_FILES, QUARANTINE, SURVEYS, PARTS)


@dataclass(frozen=True)
class Kind:
    """Objects of one kind.

    Attributes:
        key: from the run directory; ``<...>`` stands for what varies, and a number for any.
        part: what it is a part of, one of `stage_names.STAGES`; None: `clean` leaves it.
        what: lies there.
    """

    key: str
    part: str | None
    what: str


def _in_corpus(folder: str, what: str) -> Kind:
    return Kind(f"{layout.CORPUS}/{folder}/<name>", stage_names.CORPUS, what)


def _of_a_fit(key: str, what: str) -> Kind:
    return Kind(f"{layout.FACTORS}/<fingerprint>/{key}", stage_names.FACTORS, what)


def _refined(key: str, what: str) -> Kind:
    return Kind(f"{layout.REFINED}/<fingerprint>/{key}", stage_names.SCAN, what)


def _of_a_bank(key: str, what: str) -> Kind:
    return Kind(f"{layout.BANKS}/<bank>/{key}", stage_names.SCAN, what)


def _of_results(name: str, what: str) -> Kind:
    return Kind(results.table_key("<fingerprint>", name), stage_names.RESULTS, what)


def _of_a_recipe(key: str, what: str) -> Kind:
    return Kind(f"{layout.EVALUATION}/<fingerprint>/{key}", stage_names.EVALUATION, what)


_COVARIANCES = layout.lane_key(stage_names.COVARIANCE, "<piece>", "<lane>")
_MOMENTS = layout.lane_key(stage_names.MOMENTS, "<piece>", "<lane>")
#: What a method's tables hold, in the order of `results.method_tables`.
_TABLES = (
    "survivors",
    "sums of all scores, per group",
    "figures of all scores",
    "histograms of all scores",
)
#: In the order of the flow.
KINDS = (
    Kind(layout.CONFIG, None, "the configuration that it was used with last"),
    Kind(layout.HUB, None, "the commits of what was fetched from a hub"),
    Kind(
        f"{layout.ASKED}/{layout.question_key('<digest>')}",
        None,
        "a question that was asked beside the file of queries",
    ),
    Kind(layout.FORECAST, None, "the last forecast"),
    Kind(f"{layout.SCRATCH}/{layout.scratch_key(0)}", None, "of a forecast under way"),
    Kind(
        f"{layout.PASSED}/{layout.passed_key('<fingerprint>')}",
        stage_names.FACTORS,
        "that a model with its modules passed the checks at the start",
    ),
    Kind(
        f"{layout.MODELS}/{layout.model_key('<digest>')}",
        stage_names.FACTORS,
        "what each model is that the run went on with",
    ),
    _in_corpus(SHARDS, "sequences"),
    _in_corpus(FRAGMENTS, "what each file of documents became"),
    _in_corpus(LOG, "which files are in the corpus, in their order"),
    _in_corpus(BAD_FILES, "which files are left out, and why"),
    _in_corpus(QUARANTINE, "rows that were left out"),
    _in_corpus(SURVEYS, "where large files are cut"),
    _in_corpus(PARTS, "what parts of large files became"),
    _in_corpus(ROLLED, "many fragments in one, derived"),
    _of_a_fit(_COVARIANCES, "sums of what is new in a round"),
    _of_a_fit(layout.checkpoint_key(_COVARIANCES), "the same so far, of a lane under way"),
    _of_a_fit(
        layout.basis_key("<piece>", "<side>", "<module>"), "eigenbasis of a side of a module"
    ),
    _of_a_fit(_MOMENTS, "sums over all of a piece, in its eigenbases"),
    _of_a_fit(layout.checkpoint_key(_MOMENTS), "the same so far, of a lane under way"),
    _of_a_fit(layout.held_out_key(0), "scores of the held-out set with the factors of a round"),
    _of_a_fit(layout.held_out_key(1, alone=True), "the same of what is new in it, alone"),
    _of_a_fit(layout.module_key("<module>"), "the factors"),
    _of_a_fit(layout.MANIFEST, "what they were fitted on (last)"),
    Kind(
        f"{layout.SELECTED}/<fingerprint>/{layout.chosen_key('<split>')}",
        stage_names.SCAN,
        "which rows of a split conditions leave",
    ),
    Kind(
        f"{layout.COUNTS}/<fingerprint>/{layout.counts_key('<split>')}",
        stage_names.SCAN,
        "how many of a split's sequences have each term of the queries",
    ),
    Kind(
        f"{layout.FEATURES}/<fingerprint>/{layout.features_key('<split>', 0)}",
        stage_names.SCAN,
        "what the last layer sees of targets of a split",
    ),
    Kind(
        f"{layout.LAST_LAYER}/<fingerprint>/{layout.fitted_key()}",
        stage_names.SCAN,
        "the last layer, fitted again for representer points",
    ),
    Kind(
        f"{layout.LAST_LAYER}/<fingerprint>/{layout.checkpoint_key(layout.fitted_key())}",
        stage_names.SCAN,
        "the same so far, of a fit under way",
    ),
    Kind(
        f"{layout.QUERIES}/<fingerprint>/{layout.query_key('<query>')}",
        stage_names.SCAN,
        "a query, as one method has it",
    ),
    _refined(layout.sample_key(0), "rows of the sample that a solver's curvature is a mean over"),
    _refined(layout.prepared_key(), "what a solver makes once for all queries"),
    _refined(layout.query_key("<query>"), "a query as a solver has it, at full rank"),
    *(
        _refined(layout.checkpoint_key(key), "the same so far, of a solve under way")
        for key in (layout.prepared_key(), layout.query_key("<query>"))
    ),
    _refined(layout.lane_sums_key("<name>", 0, 0), "a lane's sums of products that a solve wants"),
    _refined(layout.asked_key("<name>", 0), "vectors whose products it wants"),
    _of_a_bank(layout.MANIFEST, "which queries, and how they are scanned"),
    _of_a_bank(layout.SPLITS, "the splits, where they are of a part of the corpus"),
    _of_a_bank(layout.partial_key("<split>"), "what a split yields"),
    _of_a_bank(results.scores_key("<split>"), "all of its scores, where they are kept"),
    _of_a_bank(layout.aside_key("<split>"), "why a split could not be scored"),
    _of_a_bank(
        layout.mark_key("<split>", 1), "that a query has no score of so many of its sequences"
    ),
    Kind(
        f"{layout.RESCORED}/{layout.survivors_key('<digest>')}",
        stage_names.SCAN,
        "survivors at full rank: some, for a block of queries",
    ),
    Kind(
        f"{layout.RESCORED}/{layout.pairs_key('<digest>')}",
        stage_names.SCAN,
        "scores of a query by pairs of tokens",
    ),
    Kind(
        f"{layout.RESCORED}/{layout.rows_key('<digest>')}",
        stage_names.SCAN,
        "rows of tables: of some sequences, or of some queries",
    ),
    _of_results(results.QUERIES, "what was asked"),
    _of_results(results.SEQUENCES, "what survived, once"),
    *map(_of_results, results.method_tables("<method>"), _TABLES),
    Kind(results.version_manifest("<fingerprint>"), stage_names.RESULTS, "what they are made of"),
    Kind(results.MANIFEST, stage_names.RESULTS, "the same of the current ones (last)"),
    Kind(layout.TIMINGS, stage_names.RESULTS, "seconds and tokens/s of each stage"),
    Kind(layout.REPORT, stage_names.RESULTS, "the report"),
    Kind(
        f"{layout.REPORT_PAGES}/<page>.html",
        stage_names.RESULTS,
        "a query's page, where they are too many for one",
    ),
    Kind(
        layout.view_key("<digest>"),
        stage_names.RESULTS,
        "a comparison, or the report of results without some sequences, or of earlier ones",
    ),
    Kind(
        f"{layout.VIEWS}/<digest>/<page>.html",
        stage_names.RESULTS,
        "a query's page of such a report",
    ),
    _of_a_recipe(
        layout.retrained_key("<digest>"),
        "what a model says that was trained on a part of the corpus",
    ),
    _of_a_recipe(layout.full_model_key("<digest>"), "the model that was trained on all of it"),
    _of_a_recipe(
        layout.unrolled_key("<digest>"), "scores of a query by the derivative of the training"
    ),
    _of_a_recipe(layout.TOOK, "seconds of a training on all of it, or of a method's scores"),
    _of_a_recipe(layout.RETRAINED, "the table of such models"),
    _of_a_recipe(results.scores_key("<split>"), "likeness of hidden states, beside methods"),
    _of_a_recipe(
        layout.neighbours_key("<split>"),
        "distances of hidden states of a split from those where queries are answered",
    ),
    Kind(layout.EVALUATED, stage_names.EVALUATION, "what was measured of methods"),
    Kind(layout.EVALUATED_PAGE, stage_names.EVALUATION, "the same as a page"),
    Kind(layout.VALUED, stage_names.EVALUATION, "what groups of sequences are worth"),
    Kind(layout.VALUED_PAGE, stage_names.EVALUATION, "the same as a page"),
    Kind(layout.DAMPINGS, stage_names.EVALUATION, "what was measured of dampings"),
    Kind(layout.DAMPINGS_PAGE, stage_names.EVALUATION, "the same as a page"),
    _of_a_recipe(
        layout.response_key("<digest>"),
        "what moving the weights by a sequence does to queries, and what was predicted",
    ),
)
#: What earlier versions left, and no run reads any more.
_EARLIER = (
    Kind(f"{layout.CORPUS}/{OLD_MANIFEST}", stage_names.CORPUS, "the corpus"),
    Kind(f"{layout.RESCORED}/<digest>.parquet", stage_names.SCAN, "rows of tables"),
    Kind(f"{layout.RESULTS}/<name>.parquet", stage_names.RESULTS, "a table"),
    Kind(f"{layout.RESULTS}/<name>.json", stage_names.RESULTS, "what they are made of"),
)
#: What stands for what; all else stands for any name.
_VARIES = {
    **dict.fromkeys(
        ("<fingerprint>", "<digest>", "<bank>", "<query>", "<split>"), layout.FINGERPRINT.pattern
    ),
    "<piece>": r"(round|part)-\d+",
    "<lane>": r"(group-\d+/)?lane-\d+",
    "<side>": "(inputs|outputs)",
    "<page>": r"q[0-9a-f]{12}(-\d+)?",
    "<method>": "[^/-]+",
}


def pattern(key: str) -> str:
    """What keys of a kind look like. What is called otherwise is somebody else's."""

    def of(part: str) -> str:
        if part.startswith("<"):
            return _VARIES.get(part, "[^/]+")
        return r"\d+" if part.isdecimal() else re.escape(part)

    return "".join(map(of, re.findall(r"<\w+>|\d+|[^<\d]+", key)))


def _first(n: int, key: str) -> str:
    return "/".join(key.split("/")[:n])


_CLEANED = re.compile(
    "|".join(sorted({pattern(_first(2, one.key)) for one in (*KINDS, *_EARLIER) if one.part}))
)
#: Folders of the run directory.
FOLDERS = frozenset(_first(1, one.key) for one in KINDS if "/" in one.key)
_KEPT = frozenset(_first(1, one.key) for one in KINDS if one.part is None)


def tops(part: str) -> list[str]:
    """The folders and objects of the run directory that hold a part of it, one of `STAGES`."""
    return list(dict.fromkeys(_first(1, one.key) for one in KINDS if one.part == part))


def is_cleaned(key: str) -> bool:
    """Whether a key of a run directory is of what `clean` deletes, or is below that.

    A user's folders may well be named `models` or `queries`: it takes a name that a run gives.
    """
    return _CLEANED.fullmatch(_first(2, key)) is not None


def is_written(key: str) -> bool:
    """Whether a run writes or deletes what a key names, or a folder that it is in."""
    return is_cleaned(key) or _first(1, key) in _KEPT
