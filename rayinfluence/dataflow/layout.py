"""What lies in a run directory: each key that the dataflow writes or looks for is spelt here.

Keys are as seen from the folder that the work is given: the run directory, one of its folders, or
that of a fit or of a bank. ``kinds.py`` has all of them together. What is inside a corpus is named
in ``corpus/``, and inside results in ``storage/results/``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from rayinfluence.dataflow import stage_names
from rayinfluence.storage import results

#: The configuration that a run directory was used with last; written when a run begins.
CONFIG = "config.json"
#: Which commit each model is that the run fetches from a hub; written when a run begins.
HUB = "hub.json"
#: With an object for each question that was asked of the run beside its file of queries.
ASKED = "asked"
#: What each stage took, over all runs; written with the results.
TIMINGS = "stages.json"
#: The page of `rayinfluence report`, and the last forecast of `rayinfluence plan`.
REPORT, FORECAST = "report.html", "plan.json"
#: Beside the report, a page of each query where they are too many for one.
REPORT_PAGES = "report"
#: Pages of comparisons, of results without some of their sequences, and of earlier results.
VIEWS = "views"
#: Its folders: of what begins a run, and where `plan` writes what it measures, and deletes it.
CORPUS, MODELS, PASSED, SCRATCH = stage_names.CORPUS, "models", "preflight", "plan"
#: Those with a folder for each fit, each way of preconditioning, and each bank, by fingerprint.
FACTORS, QUERIES, BANKS = stage_names.FACTORS, stage_names.QUERIES, results.BANKS
#: With a folder for each way of preconditioning that a solver refines: its sample, what it makes
#: once for all queries, and queries at full rank.
REFINED = "refined"
#: Folder of solves whose products are made lane by lane.
TURNS = "turns"
#: With a folder for each set of terms.
COUNTS = stage_names.COUNTS
#: With a folder for each model whose last layer is fitted again, and for each such fit.
FEATURES, LAST_LAYER = stage_names.FEATURES, "last_layer"
#: With a folder for each pair of conditions that rows are chosen by.
SELECTED = "selected"
#: What the second pass found, with the rows of tables; and the tables.
RESCORED, RESULTS = "rescored", results.RESULTS
#: What methods were measured to be, and over dampings: values, and the page of each.
EVALUATED, EVALUATED_PAGE = "evaluation.json", "evaluation.html"
DAMPINGS, DAMPINGS_PAGE = "damping.json", "damping.html"
#: What groups of sequences are worth: values, and their page.
VALUED, VALUED_PAGE = results.VALUED, "shapley.html"
#: With a folder for each recipe that models are trained by again on parts of the corpus, and for
#: each way in which responses are found.
EVALUATION = stage_names.EVALUATION
#: What a full training took; and the table of all trainings that were asked for last.
TOOK, RETRAINED = "took.json", "bank.parquet"
#: What a fit, or a bank, is: written when a fit is done, and when queries are put into a bank.
MANIFEST = results.BANK_MANIFEST
#: Folders of a bank, which are listed.
PARTIALS, ASIDE, MARKS = "partials", "aside", "missing"
#: Of a bank: which splits it was scanned with last, where they have some of their rows alone.
SPLITS = "splits.json"
#: What the keys of tensors end in.
TENSORS = ".safetensors"
FINGERPRINT = re.compile("[0-9a-f]{32}")
_OF_A_ROUND = re.compile(rf"({stage_names.COVARIANCE}|{stage_names.MOMENTS})/round-(\d+)/")


def question_key(digest: str) -> str:
    """Where in `ASKED` a question is."""
    return f"{digest}.json"


def passed_key(fingerprint: str) -> str:
    """Where it is in `PASSED` that a model passed the checks that a run starts with."""
    return f"{fingerprint}.json"


def model_key(digest: str) -> str:
    """Where it is in `MODELS` what a model is; written once the run is to go on with it."""
    return f"{digest}.json"


def view_key(digest: str) -> str:
    """Where in the run directory the page of a view is; what goes with it is in a folder beside."""
    return f"{VIEWS}/{digest}.html"


def scratch_key(bank: int) -> str:
    """Where the partial of a bank is in `SCRATCH` while `plan` measures."""
    return f"partial-{bank}"


def piece_name(number: int, alone: bool = False) -> str:
    """The folder of what is fitted in a round, or of what is new in it, alone."""
    return f"{'part' if alone else 'round'}-{number}"


def lane_name(index: int, group: int | None = None) -> str:
    """A lane; where modules are fitted in groups, in the folder of its group."""
    return f"lane-{index:03d}" if group is None else f"group-{group}/lane-{index:03d}"


def lane_key(stage: str, piece: str, lane: str) -> str:
    """Where a fit's lane is: its sums of covariances or of moments, by the stage's name."""
    return f"{stage}/{piece}/{lane}{TENSORS}"


def checkpoint_key(lane_key: str) -> str:
    """Where it is what will be a lane, or a solution, and is under way; its worker deletes it."""
    return lane_key.removesuffix(TENSORS) + ".checkpoint"


def basis_key(piece: str, side: str, module: str) -> str:
    """Where the eigenbasis of a side of a module is."""
    return f"{stage_names.EIGEN}/{piece}/{side}/{module}{TENSORS}"


def held_out_key(number: int, alone: bool = False) -> str:
    """Where a round's scores of the held-out set are, and how far they may err."""
    return f"rounds/{number}{'-part' if alone else ''}{TENSORS}"


def module_key(module: str) -> str:
    """Where the factors of a module are."""
    return f"modules/{module}{TENSORS}"


def query_key(query_digest: str) -> str:
    """Where a query is, as one method has it."""
    return f"{query_digest}{TENSORS}"


def prepared_key() -> str:
    """Where it is what a solver makes once for all queries."""
    return f"prepared{TENSORS}"


def asked_key(key: str, turn: int) -> str:
    """Where vectors are whose products the solve of an object goes on with, in a turn of it."""
    return f"{TURNS}/{named(key)}-{turn:05d}{TENSORS}"


def lane_sums_key(key: str, turn: int, lane: int) -> str:
    """Where a lane's sums of these products are."""
    return f"{TURNS}/{named(key)}-{turn:05d}-{lane_name(lane)}{TENSORS}"


def turn_of(key: str) -> tuple[str, int, bool]:
    """Of a key of such: what is solved for, the turn, and whether it is a lane's."""
    name, turn, *lane = named(key).split("-")
    return name, int(turn), bool(lane)


def sample_key(piece: int) -> str:
    """Where some rows are of the sample that a solver's curvature is a mean over."""
    return f"sample/rows-{piece:05d}{TENSORS}"


def counts_key(split_digest: str) -> str:
    """Where the counts of a split's terms are: its name is what they were made of."""
    return f"{split_digest}{TENSORS}"


def features_key(split_digest: str, part: int) -> str:
    """Where it is what the last layer sees of a part of a split."""
    return f"{split_digest}-{part:05d}{TENSORS}"


def fitted_key() -> str:
    """Where a last layer is that was fitted again."""
    return f"fitted{TENSORS}"


def chosen_key(split_digest: str) -> str:
    """Where the rows are that were chosen of a split."""
    return f"{split_digest}{TENSORS}"


def partial_key(split_digest: str) -> str:
    """Where a split's partial is: its name is what it was made of."""
    return f"{PARTIALS}/{split_digest}{TENSORS}"


def aside_key(split_digest: str) -> str:
    """Where a note is that a split could not be scored, and why."""
    return f"{ASIDE}/{split_digest}.json"


def mark_key(split_digest: str, n_missing: int) -> str:
    """Where a mark is that a query has no score of some of a split's sequences, and how many."""
    return f"{MARKS}/{split_digest}.{n_missing}.json"


def with_manifest(keys: Iterable[str]) -> dict[str, str]:
    """Of the keys of `FACTORS` or `BANKS`: where each fingerprint's manifest is, if it has one."""
    parts = (key.partition("/") for key in keys)
    return {
        fingerprint: f"{fingerprint}/{MANIFEST}"
        for fingerprint, _, inside in parts
        if inside == MANIFEST and FINGERPRINT.fullmatch(fingerprint)
    }


def lanes_of_rounds(keys: Iterable[str]) -> Counter[tuple[str, int]]:
    """Of the keys of a fit: how many lanes of a stage are committed of each round's sample."""
    found: Counter[tuple[str, int]] = Counter()
    for key in keys:
        if one := _OF_A_ROUND.match(key):
            found[one[1], int(one[2])] += key.endswith(TENSORS)  # a checkpoint is no lane
    return found


def marked(key: str) -> tuple[str, int]:
    """The split that a mark is of, and how many."""
    split, n_missing, _ = key.rsplit("/", 1)[-1].split(".")
    return split, int(n_missing)


def named(key: str) -> str:
    """The digest that a query, a partial or a note is called after."""
    return key.rsplit("/", 1)[-1].partition(".")[0]


def survivors_key(digest: str) -> str:
    """Where some survivors of some queries are in `RESCORED`, as the second pass scored them."""
    return f"{digest}{TENSORS}"


def pairs_key(digest: str) -> str:
    """Where scores of a query by pairs of tokens are in `RESCORED`."""
    return f"{digest}.pairs{TENSORS}"


def rows_key(digest: str) -> str:
    """Where rows are in `RESCORED` that a table is put together of."""
    return f"{digest}.rows{TENSORS}"


def retrained_key(digest: str) -> str:
    """Where it is what a model says that was trained on a subset: its name is what of."""
    return f"{digest}{TENSORS}"


def full_model_key(digest: str) -> str:
    """Where a model is that was trained on all of the corpus, as files in one object."""
    return f"{digest}.model{TENSORS}"


def unrolled_key(digest: str) -> str:
    """Where scores are by the derivative of a training, of a query."""
    return f"{digest}.unrolled{TENSORS}"


def response_key(digest: str) -> str:
    """Where the responses of queries to a sequence are."""
    return f"{digest}.response{TENSORS}"


def neighbours_key(split_digest: str) -> str:
    """Where distances of a split's places from tokens of completions are."""
    return f"{split_digest}.neighbours{TENSORS}"


def factor_kind(parts: Mapping[str, Any]) -> str:
    """Of which kind factors are, by what a manifest says that decides their bytes."""
    return str(parts.get("kind", "ekfac"))
