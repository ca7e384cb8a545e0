"""The stages of a run, by name: progress, timings, metrics, `plan`, `status` and `clean` agree.

A stage is shown, timed and exported under its name; scoring the held-out set, which rounds of the
fit do in between, is exported alone. `status` and `clean` take together those that work on one
thing, and call them after it.
"""

from __future__ import annotations

TOKENIZE = "tokenize"
COVARIANCE, EIGEN, MOMENTS, HELD_OUT, FACTORS = (
    "covariance",
    "eigen",
    "moments",
    "held-out",
    "factors",
)
QUERIES, SCAN, MERGE, GATHER, RESCORE = "queries", "scan", "merge", "gather", "rescore"
#: Of queries, by a solver.
REFINE = "refine"
#: Of terms, for methods by texts.
COUNTS = "counts"
#: What the last layer sees, and its fit, for methods that read that.
FEATURES, REFIT = "features", "refit"
#: Of rows, where a part of the corpus is scanned.
SELECT = "select"
TABLES = "tables"
#: Of models on parts of the corpus.
RETRAIN = "retrain"
#: Of hidden states, beside which methods are evaluated; and of steps on what methods put first.
HIDDEN, PATCH = "hidden", "tail-patch"
#: Of a training, backwards.
UNROLL = "unroll"
#: Of queries to sequences, by moving weights.
RESPOND = "respond"
#: Of `rayinfluence plan`: a little of all others.
PLAN = "plan"

CORPUS, RESULTS, EVALUATION = "corpus", "results", "evaluation"
#: What a run makes, in the order of the flow, and the stages that make it, in theirs.
STAGES = {
    CORPUS: (TOKENIZE,),
    FACTORS: (COVARIANCE, EIGEN, MOMENTS, HELD_OUT, FACTORS),
    SCAN: (SELECT, COUNTS, FEATURES, REFIT, QUERIES, REFINE, SCAN, MERGE, GATHER, RESCORE),
    RESULTS: (TABLES,),
    EVALUATION: (RETRAIN, UNROLL, HIDDEN, PATCH, RESPOND),
}
