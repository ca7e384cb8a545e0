"""How many features the rows of a run have, from its first documents or its corpus."""

from __future__ import annotations

from collections.abc import Sequence

from rayinfluence.config import RunConfig
from rayinfluence.corpus.beginning import beginning
from rayinfluence.corpus.corpus import Corpus
from rayinfluence.corpus.features import Features, n_features_of
from rayinfluence.dataflow.begin.reading import columns_of
from rayinfluence.errors import ConfigError, CorpusError
from rayinfluence.storage.store import Store


def refuse_rows(config: RunConfig, what: str) -> None:
    """Refuse what is of texts alone.

    Raises:
        ConfigError: the configuration is of rows of features.
    """
    if config.model_function is not None:
        raise ConfigError(
            f"{what} is of texts, and the model of this run takes rows of features "
            f"(model_function: {config.model_function}). Look at the report of the run instead."
        )


def features_of(config: RunConfig, files: Sequence[Store], corpus: Store) -> Features:
    """The features of a run whose model takes rows.

    Args:
        config: of the run.
        files: of documents; of none the corpus tells.
        corpus: where that is.

    Raises:
        ConfigError, CorpusError: there is no row, or the corpus is of texts.
    """
    if not config.corpus.documents:
        settings = Corpus.open(corpus).manifest.settings
        if not settings.feature_columns:
            raise CorpusError(
                f"the corpus at {corpus.url} is of texts, and model_function takes rows of "
                "features. Name their documents under corpus.documents, and another corpus.path."
            )
        columns, target = tuple(settings.feature_columns), settings.label_column
        return Features(columns, str(target), settings.context - 1)
    columns, target = tuple(config.corpus.feature_columns or ()), config.corpus.label_column
    first = beginning(files, columns_of(config), config.corpus.bad_files > 0)
    if not first.documents:
        raise CorpusError(
            f"{files[0].url}: none of its first rows has a finite number in each of the columns "
            f"under corpus.feature_columns and corpus.label_column ({', '.join(columns)}, "
            f"{target}). Mend the file, or name other columns."
        )
    return Features(columns, str(target), n_features_of(first.documents[0].text))
