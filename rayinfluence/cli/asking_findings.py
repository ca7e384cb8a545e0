"""Runs as `rayinfluence analyse` reads them, and what they are asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rayinfluence.cli.saying import say
from rayinfluence.errors import ConfigError

if TYPE_CHECKING:
    from rayinfluence.analysis import One, Scored
    from rayinfluence.analysis.layers import Pairs
    from rayinfluence.config import RunConfig
    from rayinfluence.report.analysed.grids import Found
    from rayinfluence.storage.results import Results
    from rayinfluence.storage.store import Store


@dataclass(frozen=True)
class Opened:
    """How runs are read.

    Attributes:
        method: that is looked at; None is a run's first.
        probes: the file of sentences by parts, if there is one.
        only: a key of queries' metadata and the value of those that are looked at alone.
        settings: of a run's configuration, over its file's.
        endpoint_url: of a server.
    """

    method: str | None
    probes: str | None
    only: tuple[str, str] | None
    settings: Sequence[str]
    endpoint_url: str | None
    _results: dict[str, tuple[Results, dict[str, Results]]] = field(default_factory=dict)
    _scored: dict[str, list[Scored]] = field(default_factory=dict)

    def folder(self, run: str, out: str) -> Store:
        """A folder that is written to, as objects of the run are reached."""
        from rayinfluence.dataflow.places import run_place

        return run_place(run, self.endpoint_url, self.settings).beside(out)

    def results(self, run: str) -> tuple[Results, dict[str, Results]]:
        """Of the method, and of all methods by name; they are read once."""
        if run not in self._results:
            self._results[run] = self._read(run)
        return self._results[run]

    def _read(self, run: str) -> tuple[Results, dict[str, Results]]:
        from rayinfluence.analysis.asked import only_of
        from rayinfluence.cli.showing import all_results
        from rayinfluence.dataflow.places import run_place

        by_method = all_results(run_place(run, self.endpoint_url, self.settings).store)
        if self.method is not None and self.method not in by_method:
            raise ConfigError(f"--method {self.method}: the run has {', '.join(by_method)}.")
        results = by_method[self.method or next(iter(by_method))]
        return results if self.only is None else only_of(results, *self.only), by_method

    def config(self, run: str) -> RunConfig:
        """Of the run, for what its model and its queries are asked."""
        from rayinfluence.dataflow.places import run_config

        server = [] if self.endpoint_url is None else [f"storage.endpoint_url={self.endpoint_url}"]
        return run_config(run, settings=[*self.settings, *server])

    def scored(self, run: str) -> list[Scored]:
        """The texts of the file, each scored with its query of the run, once."""
        if run not in self._scored:
            self._scored[run] = self._score(run)
        return self._scored[run]

    def _score(self, run: str) -> list[Scored]:
        from rayinfluence.analysis import Scored
        from rayinfluence.dataflow.begin.order import read_parts
        from rayinfluence.dataflow.begin.probes import Probing

        if self.probes is None:
            return []
        config = self.config(run)
        parts = read_parts(self.probes, config)
        own = [one.query for one in parts]
        texts = [one.probe for one in parts]
        probing = Probing.of(config, texts, own, self.method, lambda text: say(text, error=True))
        # After what is asked is known to be good: importing torch takes seconds.
        from rayinfluence.dataflow.probing import probe_own

        seen, scores = probe_own(probing, own)
        if cut := [one.name for one in seen if one.n_cut]:
            say(
                f"warning: {len(cut)} of {len(seen)} texts are longer than a sequence of the run, "
                f"and are scored as far as one goes, such as {cut[0]!r}",
                error=True,
            )
        return [
            Scored(one.query, one.part, tuple(text.tokens), score)
            for one, text, score in zip(parts, seen, scores, strict=True)
        ]


@dataclass(frozen=True)
class Asked:
    """What runs are asked.

    Attributes:
        what: of ``tails``, ``layers``, ``copies``, ``order``, ``scale`` and ``all``.
        by: a metadata key, or None.
        pairs: hits of others that each query is scored with, or None.
        least: log-probability per token of a known query, in nats.
    """

    what: str
    by: str | None
    pairs: int | None
    least: float


def found_of(runs: Sequence[str], opened: Opened, asked: Asked) -> Found:
    """What runs say; of several those of one alone are asked the first.

    Raises:
        RayInfluenceError: one cannot be read or asked. Of ``all`` what the run cannot be asked is
            among what is found.
    """
    from rayinfluence.analysis import ask_all

    analyses = _analyses(runs, opened, asked)
    if asked.what != "all":
        make = analyses[asked.what]
        assert not isinstance(make, str), make
        return make()
    results, _ = opened.results(runs[0])
    # A run that cannot be read, and a file that is wrong, are refused, and are not what is lacking.
    for run in runs:
        opened.results(run)
        opened.scored(run)
    return ask_all(
        results.method,
        str(results.manifest.get("fingerprint") or ""),
        {
            **analyses,
            "review": "People are asked with `rayinfluence review`, and say so in their sheets.",
        },
    )


def _analyses(
    runs: Sequence[str], opened: Opened, asked: Asked
) -> Mapping[str, Callable[[], One] | str]:
    from rayinfluence.analysis import (
        Sized,
        analyse_copies,
        analyse_layers,
        analyse_order,
        analyse_scale,
        analyse_tails,
    )

    run, least = runs[0], asked.least

    def layers() -> One:
        results, _ = opened.results(run)
        pairs = asked.pairs
        beside = None if pairs is None else _pairs(opened.config(run), results, least, pairs)
        return analyse_layers(results, asked.by, least, beside)

    def scale() -> One:
        sized = []
        for one in runs:
            results, by_method = opened.results(one)
            sized.append(Sized(one, results, by_method.get("bm25"), opened.scored(one)))
        return analyse_scale(sized, asked.by, least)

    return {
        "tails": lambda: analyse_tails(*opened.results(run), least),
        "layers": layers,
        "copies": lambda: analyse_copies(opened.results(run)[0], least),
        "order": "Name a file of sentences by parts with --probes FILE."
        if opened.probes is None
        else lambda: analyse_order(opened.results(run)[0], opened.scored(run), least),
        "scale": "One run is of one size: name runs of models of other sizes beside it."
        if len(runs) < 2
        else scale,
    }


def _pairs(config: RunConfig, results: Results, least: float, n: int) -> Pairs:
    """Known queries with hits of others, by the run's own model."""
    from rayinfluence.analysis.asked import Gate
    from rayinfluence.analysis.pairs import drawn_hits, shuffled_pairs
    from rayinfluence.dataflow.begin.probes import Probing, probes_of

    if not results.meaning.has_layers:
        raise ConfigError(f"--pairs: {results.method} has no scores by layer; name another method.")
    texts = drawn_hits(results, least, n)
    known = Gate.of(results, least).known
    probing = Probing.of(
        config,
        probes_of(list(texts.values())),
        known,
        results.method,
        lambda text: say(text, error=True),
    )
    from rayinfluence.dataflow.probing import probe

    found = probe(probing).scores
    return shuffled_pairs(
        results, list(texts), {one: [s.layer_scores for s in found[one]] for one in known}
    )
