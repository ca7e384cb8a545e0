"""Tables of trainings that are there already: given instead of training, or of the farm's own."""

from __future__ import annotations

from rayinfluence.config_evaluation import EvaluationConfig
from rayinfluence.dataflow import layout
from rayinfluence.errors import DamagedError, InputError
from rayinfluence.evaluation.bank import Bank
from rayinfluence.evaluation.farm import Farm
from rayinfluence.evaluation.subsets import Subset
from rayinfluence.storage.digest import differences

#: What of a recipe does not have to be the same: the corpus is compared by the sequences that are
#: trained on, and other versions give other bits of the same models.
_MAY_DIFFER = ("corpus: ", "left_out: ", "versions.")
_SHOWN = 3


def given_bank(farm: Farm, wanted: EvaluationConfig) -> tuple[Bank | None, list[str]]:
    """The table that a configuration names, and what to beware of; None where it names none.

    Args:
        farm: of the run.
        wanted: its section.

    Raises:
        InputError: it is no such table, or of another recipe, other queries or other sequences.
    """
    if wanted.bank is None:
        return None, []
    bank = farm.asked_for()
    found = differences(farm.parts, bank.about.parts)
    others = [one for one in found if not one.startswith(_MAY_DIFFER)]
    if others:
        raise InputError(
            f"evaluation.bank: the table's models were trained otherwise than `evaluation` says: "
            f"{'; '.join(others[:_SHOWN])}. Set the section to what it was, or leave the table "
            "out, and the models are trained here."
        )
    versions = [one for one in found if one.startswith("versions.")]
    note = f"The table of trainings was made with other versions: {'; '.join(versions)}."
    return bank, [note] if versions else []


def seeds_of(bank: Bank) -> tuple[int, ...]:
    """Seeds with which a given table has a training on all sequences, which others are beside.

    Raises:
        InputError: there is none.
    """
    seeds = tuple(dict.fromkeys(subset.seed for subset in bank.subsets if subset.is_full))
    if not seeds:
        raise InputError(
            "evaluation.bank: the table has no training on all sequences, beside which the others "
            "are. Name another table, or leave the key out."
        )
    return seeds


def asked_before(farm: Farm) -> tuple[Subset, ...]:
    """What the table of a farm has from an earlier evaluation of the same queries."""
    store, key = farm.retraining.store, layout.RETRAINED
    if not store.exists(key):
        return ()
    try:
        earlier = Bank.read(store, key)
    except (DamagedError, InputError):  # another release's, or damaged: written anew
        return ()
    return earlier.subsets if earlier.about.query_digests == farm.about.query_digests else ()
