"""The kind of a run's objective: told by the model's config.json, and fit for what is configured.

Before torch is imported, as files alone tell it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rayinfluence.config import RunConfig
from rayinfluence.errors import ConfigError, ModelError
from rayinfluence.model.weight_files import CONFIG, read_config
from rayinfluence.objective_kinds import MASKED, resolved_kind

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from rayinfluence.model.masking import Masking


#: Of BERT (Devlin et al. 2019, section 3.1).
MASK_RATE = 0.15


def kind_of_run(config: RunConfig, folder: str) -> str:
    """The kind of the objective of a run's model.

    Args:
        config: of the run.
        folder: of the model's weights; of one without a config.json another check speaks.

    Raises:
        ConfigError: config.json tells another kind than the configuration, or that has keys which
            say nothing of this kind.
    """
    described = read_config(folder) if (Path(folder) / CONFIG).is_file() else {}
    kind = resolved_kind(config.objective.kind, described)
    if kind == MASKED and config.objective.loss != "all":
        raise ConfigError(
            f"objective.loss: {config.objective.loss}, and the model is a masked language model: "
            "the tokens count that are masked (objective.mask_rate). Leave objective.loss out."
        )
    if kind != MASKED and config.objective.mask_rate is not None:
        raise ConfigError(
            f"objective.mask_rate: the objective of the model is {kind}, and nothing is masked. "
            "Leave it out."
        )
    return kind


def masking_of(config: RunConfig, tokenizer: PreTrainedTokenizerFast) -> Masking:
    """How a masked language model was trained.

    Raises:
        ModelError: the tokenizer has no mask.
    """
    from rayinfluence.model.masking import Masking

    if tokenizer.mask_token_id is None:
        raise ModelError(
            "tokenizer: it has no mask token, which a masked language model was trained with. Save "
            "one with its tokenizer (`mask_token` in tokenizer_config.json), or name the tokenizer "
            "that it was trained with under `tokenizer`."
        )
    never = tuple(sorted({int(token) for token in tokenizer.all_special_ids}))
    return Masking(config.objective.mask_rate or MASK_RATE, int(tokenizer.mask_token_id), never)
