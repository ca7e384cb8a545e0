"""Texts of no corpus, scored with the queries of a run that is done: in this process, in one pass.

Nothing is written, and nothing of the corpus is read. A text is what a sequence is: it has the
run's tokenizer and context, goes through the same replica, and is scored with the queries that the
scan had. So a text that is in the corpus gets its scan's score, up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from rayinfluence.corpus.chunks import AUTO, Framing
from rayinfluence.corpus.shards import bad_rows
from rayinfluence.corpus.tokenizer import tokenizer_digest
from rayinfluence.corpus.tokenizer_files import load_tokenizer
from rayinfluence.dataflow.begin.models import ModelRecord
from rayinfluence.dataflow.begin.objective import classes_of
from rayinfluence.dataflow.begin.probe_texts import Counting, labels_of_probes, rows_of, tokenised
from rayinfluence.dataflow.begin.probes import Probing
from rayinfluence.dataflow.compute.devices import devices_here
from rayinfluence.dataflow.compute.replica import NUMERICS_VERSION, Numerics, Replica
from rayinfluence.dataflow.compute.rescoring import Asked, Rescored, score_pairs
from rayinfluence.dataflow.compute.text_rescoring import rescore_texts
from rayinfluence.dataflow.compute.texts import TextBank
from rayinfluence.dataflow.jobs.banks import stored_bank
from rayinfluence.dataflow.layout import BANKS, MANIFEST, MODELS, QUERIES, query_key
from rayinfluence.dataflow.stages.queries import queries_fingerprint
from rayinfluence.errors import ConfigError, InputError, ModelError, NumericsError, StorageError
from rayinfluence.guest import as_found, own_arithmetic
from rayinfluence.influence.bank import QueryBank
from rayinfluence.model.identity import model_identity
from rayinfluence.model.load import load_model
from rayinfluence.model.masking import Masking
from rayinfluence.model.modules import shapes_of
from rayinfluence.named_function import NamedFunction
from rayinfluence.objective_kinds import CLASSIFICATION, MASKED
from rayinfluence.storage.results import Probed, ProbedText, ProbeScore, predicted
from rayinfluence.storage.store import Store, read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@as_found()
@own_arithmetic()
def probe(probing: Probing) -> Probed:
    """Score texts with the queries that a run has stored.

    Raises:
        InputError: a text has fewer than two tokens, or one that the model does not know; or no
            token of its completion is predicted, where training counted that alone; or it names no
            class of a classifier, or is a source or a target alone.
        ModelError: model or tokenizer are not those of the run.
        StorageError: its queries are not there any more.
        ConfigError: it was made by a release whose numbers are others.
        NumericsError: a text has no finite score.
    """
    ready = _Ready.of(probing)
    results, texts, n_queries = probing.results, ready.texts, len(ready.digests)
    everything_NQ = np.ones((len(texts), n_queries), dtype=np.bool_)
    found = ready.scored(everything_NQ, everything_NQ)
    scores = found.layer_scores_PM.sum(axis=1).reshape(everything_NQ.shape)
    n_training = results.manifest["n_training_sequences"]
    layers = list(ready.replica.modules) if results.meaning.has_layers else []

    def score(query: str, text: int) -> ProbeScore:
        place = ready.place(query)
        value = float(scores[text, place])
        change = predicted(value, results.meaning, n_training, results.queries[query])
        pair = text * n_queries + place
        by_token = found.token_scores[pair].tolist()
        by_module = found.layer_scores_PM[pair].tolist()
        by_layer = dict(zip(layers, by_module, strict=True)) if layers else {}
        return ProbeScore(value, *change, by_token, by_layer)

    return Probed(
        results.method,
        results.meaning,
        results.manifest["fingerprint"],
        n_training,
        ready.loss,
        {query: results.queries[query] for query in probing.queries},
        texts,
        {query: [score(query, text) for text in range(len(texts))] for query in probing.queries},
    )


@as_found()
@own_arithmetic()
def probe_own(probing: Probing, own_N: Sequence[str]) -> tuple[list[ProbedText], list[float]]:
    """Score each text with a query of its own, and with no other.

    Args:
        probing: texts, and all queries that one of them has.
        own_N: the id of the query of each text.

    Returns:
        The texts as the model saw them, and the score of each.

    Raises:
        RayInfluenceError: as :func:`probe` does.
    """
    ready = _Ready.of(probing)
    wanted_NQ = np.zeros((len(own_N), len(ready.digests)), dtype=np.bool_)
    wanted_NQ[np.arange(len(own_N)), [ready.place(query) for query in own_N]] = True
    found = ready.scored(wanted_NQ, np.zeros_like(wanted_NQ))
    return ready.texts, found.layer_scores_PM.sum(axis=1).tolist()


@dataclass(frozen=True)
class _Ready:
    """What scores texts.

    Attributes:
        probing: what is asked.
        replica: the run's model.
        bank: its queries that texts are scored with.
        digests: of those, each once: the same question may be asked under several ids.
        loss: of the run's training.
        table: of the texts, as rows of a split.
        texts: as the model sees them.
    """

    probing: Probing
    replica: Replica
    bank: QueryBank | TextBank
    digests: list[str]
    loss: str
    table: pa.Table
    texts: list[ProbedText]

    @classmethod
    def of(cls, probing: Probing) -> _Ready:
        """Read texts, model and queries, and refuse what does not belong together."""
        results = probing.results
        manifest = results.manifest
        base, stored = _bank(probing)
        numerics = _numerics(base["numerics"])
        tokenizer = _tokenizer(probing)
        counting = Counting(
            numerics.objective,
            manifest["preflight"]["context"],
            Framing.of(tokenizer, *(manifest["corpus"].get(key, AUTO) for key in ("bos", "eos"))),
            numerics.loss != "all" and results.meaning.of_predictions,
            numerics.masking,
            numerics.seed,
        )
        texts = tokenised(tokenizer, probing.probes, counting)
        table = rows_of(texts)
        _refuse(texts, bad_rows(table, None, None), InputError)  # before a model is loaded
        # What is masked is told by the rows, as places of masks have no chance here.
        told = replace(numerics, loss="completion") if numerics.objective == MASKED else numerics
        replica = _replica(probing, base["queries"]["model"], told)
        if numerics.objective == CLASSIFICATION:
            table = rows_of(texts, labels_of_probes(probing.probes, classes_of(replica.model)))
        _refuse(texts, bad_rows(table, replica.vocabulary, replica.context), InputError)
        digests = list(dict.fromkeys(results.queries[one]["digest"] for one in probing.queries))
        bank = stored_bank(replica, base["queries"]["method"], stored, digests)
        return cls(probing, replica, bank, digests, numerics.loss, table, texts)

    def place(self, query: str) -> int:
        """Of a query among those of the bank."""
        return self.digests.index(self.probing.results.queries[query]["digest"])

    def scored(self, wanted_NQ: NDArray[np.bool_], by_token_NQ: NDArray[np.bool_]) -> Rescored:
        """Some pairs of texts and queries, and which of them by token too.

        Raises:
            NumericsError: a text has no finite score.
        """
        if isinstance(self.bank, TextBank):
            rows_P, queries_P = np.nonzero(wanted_NQ)
            by_token_P = by_token_NQ[wanted_NQ]
            return rescore_texts(self.bank, self.table, rows_P, queries_P, by_token_P)
        asked = Asked(self.bank, None, wanted_NQ, by_token_NQ)
        (found,), bad = score_pairs(self.replica, [asked], self.table)
        _refuse(self.texts, bad, NumericsError)
        return found


def _bank(probing: Probing) -> tuple[dict[str, Any], Store]:
    """What decides the banks of a run's method, and where its queries are.

    Queries that were added later have a bank of their own, which is of the same base.

    Raises:
        StorageError: they are not there any more.
        ConfigError: they were made by a release whose numbers are others.
    """
    store, results = probing.store, probing.results
    again = "`rayinfluence run` on its configuration makes them again."
    bank = store / BANKS / results.manifest["methods"][results.method]["banks"][0]
    if not bank.exists(MANIFEST):
        raise StorageError(
            f"{store.url} has results, and not the queries that they are of: {again}"
        )
    manifest = read_json(bank, MANIFEST)
    base: dict[str, Any] = manifest["base"]
    version = base["numerics"]["version"]
    if version != NUMERICS_VERSION:
        raise ConfigError(
            f"the results in {store.url} are of numerics version {version}, and this release "
            f"computes version {NUMERICS_VERSION}: scores of both are not to be compared. Run "
            "again with this release, or score texts with the one that made them."
        )
    queries = store / QUERIES / queries_fingerprint(base["queries"], manifest.get("corpus"))
    there = queries.list()
    for query in probing.queries:
        if query_key(results.queries[query]["digest"]) not in there:
            raise StorageError(
                f"{store.url} does not hold query {query!r} by {results.method} any more: {again}"
            )
    return base, queries


def _numerics(of_bank: Mapping[str, Any]) -> Numerics:
    """Those of the scan, on a device that this machine has."""
    numerics = Numerics(**of_bank)
    if of_bank.get("masking") is not None:
        told = of_bank["masking"]
        masking = Masking(told["rate"], told["token"], tuple(told["never"]))
        numerics = replace(numerics, masking=masking)
    if numerics.function is not None:
        numerics = replace(numerics, function=NamedFunction(**of_bank["function"]))
    on_gpu = numerics.device == "cuda" and torch.cuda.is_available()
    return replace(numerics, device="cuda" if on_gpu else "cpu")


def _tokenizer(probing: Probing) -> PreTrainedTokenizerFast:
    """The run's tokenizer.

    Raises:
        ModelError: the configuration names another one.
    """
    path = probing.folders.tokenizer.path
    tokenizer = load_tokenizer(path, trust_remote_code=probing.config.trust_remote_code)
    if tokenizer_digest(tokenizer) != probing.results.manifest["tokenizer"]["digest"]:
        raise ModelError(
            f"the tokenizer in {path} is not the one that {probing.store.url} was made with, so "
            "its tokens are others. Name that one under `tokenizer`, or run again."
        )
    return tokenizer


def _replica(probing: Probing, digest: str, numerics: Numerics) -> Replica:
    """The run's model with the modules that it tracked.

    Raises:
        ModelError: the configuration names another model.
    """
    config, folders = probing.config, probing.folders
    model = load_model(
        folders.model.path,
        numerics.torch_dtype,
        base_model=None if folders.base is None else folders.base.path,
        attention=numerics.attention,
        trust_remote_code=config.trust_remote_code,
        kind=numerics.objective,
    )
    record = ModelRecord(probing.store / MODELS, model_identity(model))
    if record.digest != digest:
        differences = record.differences({"model": record.digest}, {"model": digest})
        raise ModelError(
            f"the model in {folders.model.path} is not the one that {probing.store.url} was made "
            f"with: {'; '.join(differences[:5])}. Name that one under `model`, or run again."
        )
    names = probing.results.manifest["model"]["modules"]
    modules = {name: model.get_submodule(name) for name in names}
    devices = devices_here(numerics.device, None, model)
    return Replica.over(devices, model, modules, numerics, shapes_of(model, modules))


def _refuse(
    texts: Sequence[ProbedText],
    reasons: Mapping[int, str],
    error: type[InputError] | type[NumericsError],
) -> None:
    """Refuse the first of the texts that cannot be scored, by its name."""
    if reasons:
        place = min(reasons)
        raise error(f"{texts[place].name!r} cannot be scored: {reasons[place]}.")
