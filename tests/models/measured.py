"""A family's tiny model, and how far off each number is that we compute with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import naive
import torch
from adapters import save_adapter
from asking import ASKING, Asking
from families import Family, tiny_model
from harness import all_scores, bases_of, fit_factors, make_bank, operator_of, table
from other_references import SEED, Text
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from untouched import gradients, untouched
from wide import widened

from rayinfluence.config import RunConfig
from rayinfluence.corpus.tokenizer_files import load_tokenizer
from rayinfluence.dataflow.begin.objective import masking_of
from rayinfluence.dataflow.begin.tracked import TrackedModel, ordinary_tokens
from rayinfluence.dataflow.compute.replica import Numerics, Replica, own_labels
from rayinfluence.errors import ConfigError
from rayinfluence.objective_kinds import MASKED
from rayinfluence.storage.results import Results
from rayinfluence.testing import tiny_run
from rayinfluence.testing.models import CONTEXT

METHODS = ("ekfac", "gradient_product")


@dataclass(frozen=True)
class Subject:
    """A family's tiny model in a folder.

    Attributes:
        config: of a run with it.
        tracked: what the run tracks by ``all``.
        plain: the model as transformers has it, with gradients of weights; with an adapter, as we
            have it.
        needs_context: whether the model does not say how many tokens it takes.
    """

    family: Family
    config: RunConfig
    tracked: TrackedModel
    plain: nn.Module
    needs_context: bool

    @property
    def asking(self) -> Asking:
        """How its kind of model is asked."""
        return ASKING[self.family.objective]

    def gradients(self, text: Text, labels: Sequence[int] | None = None) -> dict[str, Tensor]:
        """Those of autograd by module, at the text's own labels without others."""
        value = self.asking.value(self.plain, text, labels)
        return gradients(self.plain, self.names, value)

    @property
    def names(self) -> list[str]:
        """The tracked layers."""
        return list(self.tracked.replica.modules)

    @property
    def replica(self) -> Replica:
        """What the run computes with."""
        return self.tracked.replica


def load(config: RunConfig, kind: str, modules: str) -> TrackedModel:
    """What a run tracks of a kind of model, as it finds it before its work begins."""
    config = RunConfig.parse({**config.model_dump(), "modules": modules})
    tokenizer = load_tokenizer(config.tokenizer or config.model, trust_remote_code=False)
    masking = masking_of(config, tokenizer) if kind == MASKED else None
    return TrackedModel.load(
        config,
        Numerics.of(config, kind=kind, masking=masking),
        lambda model: ordinary_tokens(tokenizer, model),
    )


def prepare(family: Family, folder: Path) -> Subject:
    """Write the model and what a run needs, and load it."""
    asking = ASKING[family.objective]
    config = tiny_run(
        folder, 12, pretrained=tiny_model(family), dtype=family.dtype, modules="all",
        scan={"rank": "dense", "methods": list(METHODS)}, **asking.configured,
    )  # fmt: skip
    config = changed(config, seed=SEED)
    asking.write(folder)
    model = folder / "model"
    if family.adapter:
        base = AutoModelForCausalLM.from_pretrained(model)
        save_adapter(folder / "adapter", base, str(model), target_modules="all-linear")
        config = changed(config, model=str(folder / "adapter"), tokenizer=str(model))
    tracked = load(config, family.objective, "all")
    try:
        tracked.context(None)
    except ConfigError:
        needs_context = True
        config = changed(config, corpus={**config.corpus.model_dump(), "context": CONTEXT})
    else:
        needs_context = False
    ours = tracked.replica.model
    # RWKV writes into its cache in place, which a gradient does not stand.
    ours.config.use_cache = False
    plain = ours if family.adapter else _untouched(model, family, tracked.replica)
    plain.config.use_cache = False
    return Subject(family, config, tracked, naive.trainable(plain), needs_context)


def _untouched(folder: Path, family: Family, replica: Replica) -> nn.Module:
    told = replica.numerics
    return untouched(folder, told.attention, told.torch_dtype, family.loader)


def changed(config: RunConfig, **values: Any) -> RunConfig:
    """A configuration with other values."""
    return RunConfig.parse({**config.model_dump(), **values})


# --- checks: the largest relative error of each ---


def errors(subject: Subject, folder: Path) -> dict[str, float]:
    """Of gradients, A and S, Lambda and scores, in float64 against autograd and explicit loops."""
    replica, asking, names = subject.replica, subject.asking, subject.names
    widened(subject.plain)
    widened(replica.model)
    asked = asking.texts()
    texts = [replace(text, first=None) for text in asked]
    some, told = [text.tokens for text in texts], asking.told(texts)
    labels = [asking.sampled(subject.plain, text) for text in texts]
    # First: what a model keeps of a pass with gradients, as RecurrentGemma does, cannot be copied.
    covariances = asking.covariances(replica.model, names, texts)
    found = {"gradients": _of_gradients(subject, texts)}
    factors = fit_factors(replica, some, folder / "fit", **told)
    operator = operator_of(factors)
    sampled = [subject.gradients(text, row) for text, row in zip(texts, labels, strict=True)]
    bases = {name: (Q_A.double(), Q_S.double()) for name, (Q_A, Q_S) in bases_of(operator).items()}
    moments = naive.moments(sampled, bases)
    found["A, S"] = max(
        off(basis @ torch.diag(values.double()) @ basis.T, expected)
        for name, sides in covariances.items()
        for expected, basis, values in zip(
            sides,
            bases[name],
            (operator[name].factors.inputs_eigenvalues, operator[name].factors.outputs_eigenvalues),
            strict=True,
        )
    )
    scale = max(float(one.norm()) for one in moments.values())
    found["Lambda"] = max(
        float((operator[name].factors.moments - one).norm()) / scale
        for name, one in moments.items()
    )
    queries = [asking.query(text) for text in asked[:3]]
    of_queries = [subject.gradients(text) for text in asked[:3]]
    of_sequences = [subject.gradients(text) for text in texts]
    damping = 0.1 * max(float(one.mean()) for one in moments.values())
    for method in METHODS:
        solved = of_queries
        if method == "ekfac":
            dense = {
                name: naive.dense_operator(*bases[name], one, damping)
                for name, one in moments.items()
            }
            by_module = {
                name: _solve(matrix, [query[name] for query in of_queries])
                for name, matrix in dense.items()
            }
            solved = [
                {name: of[place] for name, of in by_module.items()}
                for place in range(len(of_queries))
            ]
        expected = torch.tensor(
            [
                [float(sum((P[name] * D[name]).sum() for name in names)) for P in solved]
                for D in of_sequences
            ],
            dtype=torch.float64,
        )
        bank = make_bank(replica, factors, queries, folder, method, damping=damping)
        found[method] = off(all_scores(replica, bank, some, **told), expected)
    return found


def _solve(matrix: Tensor, gradients_OJ: Sequence[Tensor]) -> list[Tensor]:
    """matrix^-1 vec(V) of each V, back in its shape."""
    columns = torch.stack([V.flatten() for V in gradients_OJ], dim=1)
    solved = torch.linalg.solve(matrix, columns)
    return [one.reshape(V.shape) for one, V in zip(solved.T, gradients_OJ, strict=True)]


def off(found: Tensor, expected: Tensor) -> float:
    """The distance of two tensors, relative to what is expected; absolute where that is zero."""
    return float((found.double() - expected).norm()) / (float(expected.norm()) or 1.0)


def _of_gradients(subject: Subject, texts: Sequence[Text]) -> float:
    """Of all layers' gradients of each sequence, relative to the largest of that sequence."""
    replica = subject.replica
    rows = table([text.tokens for text in texts], **subject.asking.told(texts))
    found: dict[tuple[int, str], Tensor] = {}

    def step(batch: Any, name: str, rows: Any) -> None:
        for index, sequence_id in enumerate(batch.sequence_ids):
            # Some routers stay in float32.
            inputs, grads = rows.inputs_BRI[index].double(), rows.grads_BRO[index].double()
            gradient = grads.T @ inputs
            if replica.shapes[name].bias:
                gradient = torch.cat([gradient, grads.sum(dim=0)[:, None]], dim=1)
            found[int(sequence_id), name] = gradient

    for batch in replica.batches(rows, {}):
        replica.run(batch, own_labels, step, {})
    worst = 0.0
    for index, text in enumerate(texts):
        expected = subject.gradients(text)
        scale = max(float(one.norm()) for one in expected.values())
        for name, gradient in expected.items():
            one = found.get((index, name), torch.zeros_like(gradient)).double()
            worst = max(worst, float((one - gradient).norm()) / scale)
    return worst


def off_in_a_run(subject: Subject, results: Mapping[str, Results]) -> float:
    """The largest error of a run's gradient products, as its own dtype has them."""
    scores, worst = results["gradient_product"], 0.0
    names, of_sequences = subject.names, dict[int, dict[str, Tensor]]()
    for query_id in scores.queries:
        query = scores.queries[query_id]
        of_query = subject.gradients(subject.asking.of_query(query))
        expected, found = [], []
        for hit in [*scores.proponents(query_id), *scores.opponents(query_id)]:
            if hit.sequence_id not in of_sequences:
                of_sequences[hit.sequence_id] = subject.gradients(subject.asking.of_hit(hit))
            of_sequence = of_sequences[hit.sequence_id]
            expected.append(sum(float((of_query[n] * of_sequence[n]).sum()) for n in names))
            found.append(hit.score)
        worst = max(worst, off(_double(found), _double(expected)))
    return worst


def _double(numbers: list[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)
