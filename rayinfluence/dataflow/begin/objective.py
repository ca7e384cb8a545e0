"""The kind of a run's objective: told by the model's configuration, and fit for the run's.

Before torch is imported, as files alone tell it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayinfluence.config import RunConfig
from rayinfluence.corpus.classes import names_of_classes
from rayinfluence.errors import ConfigError, ModelError
from rayinfluence.model.weight_files import CONFIG, read_config
from rayinfluence.objective_kinds import (
    CAUSAL,
    CLASSIFICATION,
    KINDS,
    MASKED,
    SEQ2SEQ,
    resolved_kind,
)

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerFast

    from rayinfluence.model.masking import Masking


#: What counts of a sequence, where no loss on tokens says so.
_COUNTS = {
    MASKED: "the tokens count that are masked (objective.mask_rate)",
    CLASSIFICATION: "what counts is the class of a text (corpus.label_column)",
    SEQ2SEQ: "what counts is the target (corpus.text_column), given its source",
}
#: Of BERT (Devlin et al. 2019, section 3.1).
MASK_RATE = 0.15


def kind_of_run(config: RunConfig, folder: str) -> str:
    """The kind of the objective of a run's model.

    Args:
        config: of the run.
        folder: of the model's weights; of one without a configuration another check speaks.

    Raises:
        ConfigError: the model tells another kind than the configuration, or that has keys which
            say nothing of this kind.
    """
    described = read_config(folder) if (Path(folder) / CONFIG).is_file() else {}
    kind = resolved_kind(config.objective.of_model, described)
    if kind in _COUNTS and config.objective.loss != "all":
        raise ConfigError(
            f"objective.loss: {config.objective.loss}, and the model is a {KINDS[kind].model}: "
            f"{_COUNTS[kind]}. Leave objective.loss out."
        )
    if kind != CAUSAL and config.scan.token_influences:
        raise ConfigError(
            f"scan.token_influences: the model is a {KINDS[kind].model}, and influences of tokens "
            "on the prediction of those that follow are of causal language models. Leave the key "
            "out."
        )
    if kind == CLASSIFICATION:
        _refuse_no_classes(config, described)
    if kind == SEQ2SEQ and config.corpus.documents and config.corpus.prompt_column is None:
        raise ConfigError(
            "corpus.prompt_column: the model makes targets of sources, and nothing says what the "
            "source of a document is. Name its column; that of the target is corpus.text_column."
        )
    if kind != CLASSIFICATION and config.corpus.label_column is not None:
        raise ConfigError(
            f"corpus.label_column: the model is a {KINDS[kind].model}, which says nothing of "
            "classes. Leave it out; what documents have besides their text is metadata."
        )
    if kind != MASKED and config.objective.mask_rate is not None:
        raise ConfigError(
            f"objective.mask_rate: the objective of the model is {kind}, and nothing is masked. "
            "Leave it out."
        )
    return kind


def _refuse_no_classes(config: RunConfig, described: Mapping[str, Any]) -> None:
    """Refuse what is no classifier of one class each, and documents without a label."""
    other = described.get("problem_type") not in (None, "single_label_classification")
    if other or len(described.get("id2label") or "two") == 1:
        raise ConfigError(
            f"model: its {CONFIG} has a regression, or several classes of one text "
            "(problem_type, id2label), and classifiers are attributed that give a text one of "
            "several classes. Name such a model under `model`."
        )
    if config.corpus.documents and config.corpus.label_column is None:
        raise ConfigError(
            "corpus.label_column: the model is a classifier of texts, and nothing says which class "
            "a document was trained to have. Name the column of its label."
        )


def classes_of(model: nn.Module) -> tuple[str, ...]:
    """Names of a classifier's classes by their ids."""
    config: Any = model.config
    return names_of_classes(config.id2label)


def masking_of(config: RunConfig, tokenizer: PreTrainedTokenizerFast) -> Masking:
    """How a masked language model was trained.

    Raises:
        ModelError: the tokenizer has no mask.
    """
    from rayinfluence.model.masking import Masking

    if tokenizer.mask_token_id is None:
        raise ModelError(
            "tokenizer: it has no mask token, which a masked language model was trained with. Save "
            "one with its tokenizer (`mask_token`), or name the tokenizer "
            "that it was trained with under `tokenizer`."
        )
    never = tuple(sorted({int(token) for token in tokenizer.all_special_ids}))
    return Masking(config.objective.mask_rate or MASK_RATE, int(tokenizer.mask_token_id), never)
