"""Results: what their tables are, where they are, and how users read them.

    <run>/results/<fingerprint>/queries.parquet         what was asked, and what the model thinks
    <run>/results/<fingerprint>/sequences.parquet       what survived, once: text, tokens, document
    <run>/results/<fingerprint>/<method>.parquet        survivors; also -groups (sums per group),
                                                        -statistics and -tails (of all scores)
    <run>/results/<fingerprint>/manifest.json           what they are made of, with their digests
    <run>/results/manifest.json                         the same of the current ones; written last

Results of other settings have another fingerprint, and stay readable beside the current ones.

Positive scores are proponents: training on the sequence makes the completion MORE likely. The
tables hold no time, host, path or version, so equal inputs give equal bytes; all of that is in the
manifest.
"""

from rayinfluence.storage.results.dense import (
    BANK_MANIFEST,
    BANKS,
    SCORES,
    dense_table,
    error_column,
    scores_key,
)
from rayinfluence.storage.results.effects import EFFECT_COLUMNS, effects_schema, group_scores
from rayinfluence.storage.results.manifest import (
    MANIFEST,
    RESULTS,
    read_results_manifest,
    table_key,
    version_manifest,
)
from rayinfluence.storage.results.meaning import ITSELF_ID, Meaning
from rayinfluence.storage.results.probed import Partition, Probed, ProbedText, ProbeScore, predicted
from rayinfluence.storage.results.reader import Results
from rayinfluence.storage.results.schema import (
    GROUP_SCHEMA,
    LINEAR_RANGE,
    QUERIES,
    SCHEMA_VERSION,
    SEQUENCES,
    STATISTICS_SCHEMA,
    TAIL_SCHEMA,
    beyond_linear,
    ceiling_of,
    in_version,
    is_difference,
    is_itself,
    is_predicted,
    log_probability_of,
    method_tables,
    of_method,
    query_schema,
    sequence_schema,
    survivor_schema,
)
from rayinfluence.storage.results.seeds import SEED_COLUMNS, seeds_of, seeds_schema
from rayinfluence.storage.results.survivor import Direction, Survivor
from rayinfluence.storage.results.valued import VALUED

__all__ = [
    "BANKS",
    "BANK_MANIFEST",
    "EFFECT_COLUMNS",
    "GROUP_SCHEMA",
    "ITSELF_ID",
    "LINEAR_RANGE",
    "MANIFEST",
    "QUERIES",
    "RESULTS",
    "SCHEMA_VERSION",
    "SCORES",
    "SEED_COLUMNS",
    "SEQUENCES",
    "STATISTICS_SCHEMA",
    "TAIL_SCHEMA",
    "VALUED",
    "Direction",
    "Meaning",
    "Partition",
    "ProbeScore",
    "Probed",
    "ProbedText",
    "Results",
    "Survivor",
    "beyond_linear",
    "ceiling_of",
    "dense_table",
    "effects_schema",
    "error_column",
    "group_scores",
    "in_version",
    "is_difference",
    "is_itself",
    "is_predicted",
    "log_probability_of",
    "method_tables",
    "of_method",
    "predicted",
    "query_schema",
    "read_results_manifest",
    "scores_key",
    "seeds_of",
    "seeds_schema",
    "sequence_schema",
    "survivor_schema",
    "table_key",
    "version_manifest",
]
