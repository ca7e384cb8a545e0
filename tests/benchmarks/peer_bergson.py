"""bergson: the steps of its EK-FAC pipeline on a model in memory, in this process."""

from __future__ import annotations

import tempfile
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import bergson.config as config
import torch
from bergson.collection import collect_gradients
from bergson.data import allocate_batches, load_scores
from bergson.gradients import GradientProcessor
from bergson.hessians.apply_hessian import EkfacApplicator, EkfacConfig
from bergson.hessians.eigenvectors import eigendecompose_owned
from bergson.hessians.hessian_approximations import collect_hessians
from bergson.score.score import create_scorer
from contenders import BATCH_TOKENS
from datasets import Dataset
from shapes import MLP_PATTERNS, Shape
from torch import Tensor, nn


class Bergson:
    """The three passes; its scan holds dense preconditioned gradients, as it has no low rank.

    Eigendecompositions and the gradients of queries with their preconditioning are not timed; the
    files that its passes write are (covariances, Lambda, dense scores, the data with its losses).
    As its pipeline does, the input embedding is trainable so that gradients flow. The pipeline
    refuses batches of more tokens than the model's context; its steps, called here, do not.
    """

    def __init__(self, shape: Shape, names: list[str] | None = None) -> None:
        self.shape, model = shape, shape.build()
        model.config.use_cache = False
        model.get_input_embeddings().requires_grad_(True)
        linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        if names is None:
            names = [name for name in linear if any(fnmatch(name, p) for p in MLP_PATTERNS)]
        prefix = model.base_model_prefix + "."
        targets = {name.removeprefix(prefix) for name in names}
        self.common: dict[str, Any] = {"model": model, "target_modules": targets}
        self.hessian_cfg = config.HessianConfig("kfac", ev_correction=True)
        self.data = _dataset(shape.sequences())
        self.stages = ("covariance", "lambda", f"scan-{shape.queries[0]}")
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name)
        self.bases: dict[str, Any] = {}
        self.n_scans = 0

    def prepare(self, stage: str) -> None:
        """Factors of the whole corpus and preconditioned queries, once."""
        hessian, query = str(self.path / "hessian.part"), str(self.path / "query.part")
        if stage != "covariance" and not self.bases:
            fitted = self._hessian()
            arguments = (None, sum(self.data["length"]))
            self.bases["eigenvectors"] = tuple(
                eigendecompose_owned(sums, {}, *arguments, f"{hessian}/{folder}", fitted.dtype)[0]
                for sums, folder in (
                    (fitted.A_cov_dict, "eigen_activation_sharded"),
                    (fitted.S_cov_dict, "eigen_gradient_sharded"),
                )
            )
        if stage.startswith("scan") and not (self.path / "bank").exists():
            self._hessian(ev_correction=True, **self.bases)
            self._collect("query", self._asked())
            apply = EkfacConfig(hessian, query, str(self.path / "bank"), ev_correction=True)
            damping = config.InversionConfig("damped_inverse", 0.1)
            EkfacApplicator(apply, damping).compute_ivhp_sharded()

    def _asked(self) -> Dataset:
        """Queries, of which all tokens count but the first; or those that a bank asks."""
        answers = getattr(self.shape, "answers", None)
        if answers is None:
            return _dataset(self.shape.query_sequences(self.shape.queries[0]))
        rows = answers()
        labels = [[-100] * first + tokens[first:].tolist() for tokens, first in rows]
        return _dataset([tokens for tokens, _ in rows]).add_column("labels", labels)

    def _job(self, name: str, data: Dataset) -> dict[str, Any]:
        index = config.IndexConfig(str(self.path / name), include_bias=True)
        index.partial_run_path.mkdir(exist_ok=True)
        batches = allocate_batches(data["length"][:], BATCH_TOKENS[self.shape.device])
        return {**self.common, "data": data, "batches": batches, "index_cfg": index}

    def _hessian(self, **more: Any) -> Any:
        job = self._job("hessian", self.data)
        return collect_hessians(
            **job, hessian_cfg=self.hessian_cfg, num_documents=len(self.data), **more
        )

    def _collect(self, name: str, data: Dataset, scorer: Any = None) -> None:
        job = self._job(name, data)
        job["cfg"] = job.pop("index_cfg")
        collect_gradients(**job, processor=GradientProcessor(include_bias=True), scorer=scorer)

    def run(self, stage: str) -> None:
        """One pass."""
        if stage == "covariance":
            self._hessian()
        elif stage == "lambda":
            self._hessian(ev_correction=True, **self.bases)
        else:
            self.n_scans += 1
            scorer = create_scorer(
                self.path / f"scores-{self.n_scans}",
                self.data,
                config.ScoreConfig(query_path=str(self.path / "bank")),
                config.PreprocessConfig(),
                torch.device(self.shape.device),
                torch.float32,
            )
            self._collect("scan", self.data, scorer)
            scorer.writer.flush()

    @property
    def scores(self) -> Tensor:
        """[N, Q], of the last scan."""
        return torch.as_tensor(load_scores(self.path / f"scores-{self.n_scans}")[:])


def _dataset(sequences: list[Any]) -> Dataset:
    tokens = [sequence.tolist() for sequence in sequences]
    return Dataset.from_dict({"input_ids": tokens, "length": [len(one) for one in tokens]})
