"""dattri-llm: the sweeps of its EK-FAC attributor over live gradients."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
import transformers.trainer_utils  # noqa: F401 - dattri imports it within its first pass
from contenders import BATCH_TOKENS
from dattri_llm import (
    AttributionArguments,
    AttributionTask,
    EKFACAttributor,
    HookManagerConfig,
    KFACAttributor,
)
from dattri_llm.gradient import ops
from shapes import MLP_PATTERNS, Shape
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

#: The parameters next to the first tracked module, before it: what has to be trainable.
_BEFORE_FIRST = (".0.ln_2.bias", ".0.post_attention_layernorm.weight")


def _sampled(model: nn.Module, batch: Tensor) -> Tensor:
    logits = model(input_ids=batch, use_cache=False).logits[:, :-1].flatten(0, 1).float()
    targets = torch.multinomial(logits.detach().softmax(-1), 1).flatten()
    return cross_entropy(logits, targets, reduction="sum")


def _true(model: nn.Module, batch: Tensor) -> Tensor:
    # Of what is asked of a bank, labels are beside the tokens.
    tokens, labels = batch.unbind(1) if batch.ndim == 3 else (batch, batch)
    logits = model(input_ids=tokens, use_cache=False).logits[:, :-1].flatten(0, 1).float()
    return cross_entropy(logits, labels[:, 1:].flatten(), reduction="sum")


class Dattri:
    """The three passes; its scan holds dense preconditioned gradients, as it has no exact low rank.

    ``covariance`` is the one sweep of its K-FAC, ``lambda`` the second sweep of its EK-FAC, given
    covariances and (in place of its eigendecompositions) bases. Queries' gradients and their
    preconditioning are not timed. It takes the data's labels unless the loss draws them, as here.
    The model is frozen and its hooks told so (``include_frozen``): no weight gradients are made.
    """

    def __init__(self, shape: Shape, names: list[str] | None = None) -> None:
        self.shape, self.model = shape, shape.build()
        # Documents of a bank have all lengths, and come one at a time.
        together = names is None
        for name, weight in self.model.named_parameters():
            weight.requires_grad_(name.endswith(_BEFORE_FIRST))
        self.folder = tempfile.TemporaryDirectory()
        self.arguments = AttributionArguments(
            output_dir=self.folder.name,
            per_device_train_batch_size=(
                max(1, BATCH_TOKENS[shape.device] // shape.n_tokens) if together else 1
            ),
            per_device_eval_batch_size=max(shape.queries[:2]) if together else 1,  # one block
            use_cpu=shape.device == "cpu",
            dataloader_pin_memory=False,
        )
        patterns = [re.escape(one).replace(r"\*", ".*") for one in names or MLP_PATTERNS]
        self.hooks = HookManagerConfig(linear_io=patterns, include_frozen=True)
        self.data = [torch.as_tensor(one.astype("int64")) for one in shape.sequences()]
        self.stages = ("covariance", "lambda", *(f"scan-{n}" for n in shape.queries[:2]))
        self.covariances: dict[str, Any] = {}
        self.factors: dict[str, Any] = {}
        self.scores = torch.empty(0)  # [N, Q]

    def prepare(self, stage: str) -> None:
        """Factors of the whole corpus, once; preconditioned queries, each time."""
        if stage == "covariance":
            return
        if not self.covariances:
            self.covariances = self._sweep(KFACAttributor, {})
            self.bases = [ops.kfac_eigh(*pair) for pair in self.covariances.values()]
        if stage == "lambda":
            return
        if not self.factors:
            self.factors = self._sweep(EKFACAttributor, self.covariances)
        self.attributor = self._attributor(EKFACAttributor, _true)
        self.attributor._relative_damping = True
        self.attributor._preconditioner = self.attributor.damp_fit((self.factors, {}), 0.1)
        source = self.attributor.generate_test_rep(
            self._asked(int(stage.partition("-")[2])), hook_config=self.hooks
        )
        with source:
            self.queries = [
                (step, self.attributor.transform_test_rep(block), names)
                for step, block, names in source
            ]

    def _asked(self, n: int) -> list[Tensor]:
        """Queries, of which all tokens count but the first; or those that a bank asks."""
        answers = getattr(self.shape, "answers", None)
        if answers is None:
            return [torch.as_tensor(query) for query in self.shape.query_sequences(n)]
        found = []
        for row, first in answers():
            tokens = torch.as_tensor(row.astype("int64"))
            labels = tokens.clone()
            labels[:first] = -100
            found.append(torch.stack([tokens, labels]))
        return found

    def _attributor(self, kind: Any, loss: Callable[[nn.Module, Any], Tensor]) -> Any:
        return kind(self.arguments, task=AttributionTask(loss, self.model))

    def _sweep(self, kind: Any, covariances: dict[str, Any]) -> dict[str, Any]:
        attributor = self._attributor(kind, _sampled)
        attributor._capture_covariances = dict(covariances) or None
        bases = iter(self.bases if covariances else [])
        with (
            patch.object(ops, "kfac_eigh", lambda *_: next(bases)),
            attributor.generate_train_rep(self.data, hook_config=self.hooks) as source,
        ):
            return attributor.fit_factors(source, ops.FisherAccumulator())

    def run(self, stage: str) -> None:
        """One pass."""
        if stage == "covariance":
            self._sweep(KFACAttributor, {})
        elif stage == "lambda":
            self._sweep(EKFACAttributor, self.covariances)
        else:
            with self.attributor.generate_train_rep(self.data, hook_config=self.hooks) as source:
                self.scores = self.attributor.score_sources(
                    source, self.queries, transform_test=lambda block: block
                )[0]
