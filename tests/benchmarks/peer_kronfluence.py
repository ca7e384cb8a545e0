"""kronfluence: its own passes over a loader, called directly so that nothing is written to disk."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import kronfluence.module.utils as modules
import torch
from contenders import BATCH_TOKENS, RANK
from kronfluence.analyzer import prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.factor.covariance import fit_covariance_matrices_with_loader as fit_covariance
from kronfluence.factor.eigen import fit_lambda_matrices_with_loader as fit_lambda
from kronfluence.factor.eigen import perform_eigendecomposition
from kronfluence.module.tracked_module import ModuleMode
from kronfluence.score.dot_product import compute_dot_products_with_loader
from kronfluence.task import Task
from kronfluence.utils.constants import ACCUMULATED_PRECONDITIONED_GRADIENT_NAME as BANK
from kronfluence.utils.state import State
from shapes import MLP_PATTERNS, QUERY_TOKENS, Shape
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader


def mlp_layers(model: nn.Module) -> list[str]:
    """Names of the linear layers that everyone tracks."""
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return [name for name in linear if any(fnmatch(name, pattern) for pattern in MLP_PATTERNS)]


class LanguageModelling(Task):
    """Summed loss over predicted tokens; labels are drawn from the model to fit factors."""

    def compute_train_loss(self, batch: Tensor, model: nn.Module, sample: bool = False) -> Tensor:
        """Of a batch."""
        logits = model(input_ids=batch, use_cache=False).logits[:, :-1].flatten(0, 1).float()
        targets = batch[:, 1:].flatten()
        if sample:
            targets = torch.multinomial(logits.detach().softmax(-1), 1).flatten()
        return cross_entropy(logits, targets, reduction="sum")

    compute_measurement = compute_train_loss


class Language(LanguageModelling):
    """The same for queries that are a prompt and a completion; MLP layers are tracked."""

    def __init__(self, n_prompt: int, model: nn.Module) -> None:
        self._n_prompt = n_prompt
        self._names = mlp_layers(model)

    def compute_measurement(self, batch: Tensor, model: nn.Module) -> Tensor:
        """Of the completions alone; minus their log-probabilities."""
        first = self._n_prompt
        logits = model(input_ids=batch, use_cache=False).logits[:, first - 1 : -1].float()
        return cross_entropy(logits.flatten(0, 1), batch[:, first:].flatten(), reduction="sum")

    def get_influence_tracked_modules(self) -> list[str]:
        """By name."""
        return self._names


class Kronfluence:
    """The three passes; ``dense-<Q>`` is the scan without low rank.

    Each stage is one pass over the training set alone, for all queries: eigendecompositions, the
    gradients of queries with their preconditioning and SVDs, and files are not timed.
    """

    def __init__(self, shape: Shape) -> None:
        self.shape, model = shape, shape.build()
        self.names = mlp_layers(model)
        self.task = LanguageModelling()
        self.task.get_influence_tracked_modules = lambda: self.names
        # What it adds to a model is on the CPU.
        self.model = prepare_model(model, self.task).to(shape.device)
        self.common: dict[str, Any] = {
            "model": self.model,
            "task": self.task,
            "state": State(cpu=shape.device == "cpu"),
            "factor_args": FactorArguments(strategy="ekfac"),
            "disable_tqdm": True,
        }
        self.loader = self._loader(shape.sequences(), shape.n_tokens)
        scans = (f"scan-{n}" for n in shape.queries)
        self.stages = ("covariance", "lambda", *scans, f"dense-{shape.queries[0]}")
        self.folder = tempfile.TemporaryDirectory()
        self.factors: dict[str, Any] = {}

    def prepare(self, stage: str) -> None:
        """Factors of the whole corpus and preconditioned queries; each is computed once."""
        if stage == "covariance":
            return
        if not self.factors:
            self.decompose(self.covariances())
        kind, _, n = stage.partition("-")
        if not n:
            return
        if "lambda_matrix" not in self.factors:
            self.factors |= self.moments()
        self.ask(stage, int(n), RANK if kind == "scan" else None)

    def covariances(self) -> dict[str, Any]:
        """Of both sides of every module."""
        return self._fit(fit_covariance)

    def decompose(self, covariances: dict[str, Any]) -> None:
        """Eigenbases, kept."""
        arguments = {key: self.common[key] for key in self.common if key != "task"}
        self.factors = perform_eigendecomposition(covariances, **arguments)

    def moments(self) -> dict[str, Any]:
        """Lambda."""
        return self._fit(fit_lambda, eigen_factors=self.factors)

    def ask(self, stage: str, n: int, rank: int | None) -> None:
        """Gradients of so many queries, preconditioned and cut, once for each stage."""
        self.score_args = ScoreArguments(damping_factor=None, query_gradient_low_rank=rank)
        modules.update_score_args(self.model, self.score_args)
        modules.set_mode(self.model, ModuleMode.PRECONDITION_GRADIENT, release_memory=True)
        bank = Path(self.folder.name, stage)
        if not bank.exists():
            for name, factors in self.factors.items():
                modules.set_factors(self.model, name, factors, clone=True)
            modules.prepare_modules(self.model, self.names, self.common["state"].device)
            for batch in self._loader(self.shape.query_sequences(n), QUERY_TOKENS):
                self.task.compute_measurement(batch.to(self.shape.device), self.model).backward()
                modules.accumulate_iterations(self.model, self.names)
            torch.save(modules.load_factors(self.model, BANK, cpu=False), bank)
        modules.set_factors(self.model, BANK, torch.load(bank, map_location=self.shape.device))

    def _fit(self, fit: Callable[..., Any], **more: Any) -> dict[str, Any]:
        return fit(**self.common, loader=self.loader, **more)[1]

    def run(self, stage: str) -> None:
        """One pass."""
        if stage == "covariance":
            self.covariances()
        elif stage == "lambda":
            self.moments()
        else:
            self.scores = compute_dot_products_with_loader(
                **self.common,
                train_loader=self.loader,
                score_args=self.score_args,
                tracked_module_names=self.names,
                scaler=torch.amp.GradScaler(enabled=False),
            )["all_modules"]

    def _loader(self, sequences: list[Any], n_tokens: int) -> DataLoader[Tensor]:
        return DataLoader(sequences, max(1, BATCH_TOKENS[self.shape.device] // n_tokens))
