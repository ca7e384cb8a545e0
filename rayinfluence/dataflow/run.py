"""A run: its stages, in the order of the flow; whatever is done already is skipped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from rayinfluence.config import RunConfig, ScanConfig
from rayinfluence.corpus.chunks import Framing
from rayinfluence.corpus.corpus import Corpus
from rayinfluence.corpus.limits import Limits
from rayinfluence.corpus.origins import shard_files
from rayinfluence.corpus.splits import Split
from rayinfluence.dataflow import layout
from rayinfluence.dataflow.begin.early import Inputs
from rayinfluence.dataflow.begin.foretold import foretold
from rayinfluence.dataflow.begin.lost import lost_sequences
from rayinfluence.dataflow.begin.narrowing import earlier_results
from rayinfluence.dataflow.begin.parts import Parts
from rayinfluence.dataflow.begin.reading import framed, refuse_overlap, settings_of
from rayinfluence.dataflow.begin.solver import solvers_of
from rayinfluence.dataflow.compute.grouping import left_out, too_many_values
from rayinfluence.dataflow.compute.partial import Partial
from rayinfluence.dataflow.compute.texts import TermCounts
from rayinfluence.dataflow.jobs.banks import BankOperands, BankPlan
from rayinfluence.dataflow.jobs.query import MethodOperands
from rayinfluence.dataflow.manifest import (
    results_fingerprint,
    run_manifest,
    take_up_results,
    write_manifest,
)
from rayinfluence.dataflow.plan.planning import Plan, plan_run
from rayinfluence.dataflow.querying import make_queries
from rayinfluence.dataflow.stages.damaged import without_damage
from rayinfluence.dataflow.stages.factors import (
    Factors,
    find_factors,
    shards_fitted_before,
    why_not_reused,
)
from rayinfluence.dataflow.stages.filter import Filtered, cheap_pass, filter_splits, plain
from rayinfluence.dataflow.stages.fit import fit
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.dataflow.stages.queries import (
    MethodQueries,
    method_operands,
    plan_banks,
    plan_methods,
    refuse_mixing,
)
from rayinfluence.dataflow.stages.refinement import Refinement
from rayinfluence.dataflow.stages.results import Documents, write_results
from rayinfluence.dataflow.stages.sample import FitPlan
from rayinfluence.dataflow.stages.scan import Aside, note_splits, scan
from rayinfluence.dataflow.stages.scanned import Scanned, scanned_by_method
from rayinfluence.dataflow.stages.second_pass import SecondPass
from rayinfluence.dataflow.stages.select import Selection, select
from rayinfluence.dataflow.stages.tokenize import tokenize_files
from rayinfluence.guest import own_arithmetic
from rayinfluence.methods.method import FactorKind
from rayinfluence.methods.registry import (
    LAST_LAYER_METHODS,
    REFINABLE,
    SELF_METHODS,
    factors_needed,
)
from rayinfluence.storage.results import Results
from rayinfluence.storage.store import Store


class Run(Parts):
    """One run directory under one configuration.

    Use as a context manager; stages may be called in any order.

    Args:
        config: the configuration.
        progress: where progress goes; standard error by default.
        new_run: stages that were run with other settings are run again beside theirs; without it
            they are refused.
        inputs: what the configuration names, if it was read before.
    """

    def __init__(
        self,
        config: RunConfig,
        progress: ProgressLog | None = None,
        new_run: bool = False,
        inputs: Inputs | None = None,
    ) -> None:
        super().__init__(config, progress, inputs, new_run)
        self.set_aside: list[Aside] = []
        self._factors: dict[FactorKind, tuple[FitPlan, Factors]] = {}

    @own_arithmetic()
    def tokenize(self) -> Corpus:
        """Documents -> shards; files that are in the corpus already are skipped.

        Raises:
            CorpusError: a file cannot be read, or the corpus holds files that the configuration
                does not list.
        """
        documents = self.inputs.documents  # first: they may not be among what is written
        self._record_config()
        settings = self.config.corpus
        if settings.documents:
            if documents.left_out:
                self.progress.note(
                    f"documents    {len(documents.files):,} files; left out: {documents.line}"
                )
            wanted = settings_of(self.config, self.context, self.inputs.kind, self.classes)
            framing = Framing.of(self.coding, settings.bos, settings.eos)
            refuse_overlap(settings.overlap, self.context, framing)
            said = framed(self.coding, framing, self.inputs.kind, settings.overlap)
            self.progress.note(f"tokens       {said}")
            bad_files = tokenize_files(
                lambda: self.runner,
                documents,
                self.corpus_store,
                self.coding,
                wanted,
                self.progress,
                self._foretell,
                Limits(settings.bad_rows, settings.bad_files),
            )
            for bad in bad_files:
                self._warn(f"left out of the corpus, with all that is in it: {bad.reason}")
            self._note_commits()
            self.__dict__.pop("corpus", None)
            if not_kept := self.corpus.manifest.not_kept:
                named = ", ".join(f"{key!r} of {n:,}" for key, n in not_kept.most_common(5))
                self.progress.note(
                    f"metadata     not kept, as it is not small: {named} documents"
                    f"{', ...' * (len(not_kept) > 5)}; name under corpus.metadata what is to be"
                )
        self._warn_of_lost_rows()
        return self.corpus

    @own_arithmetic()
    def fit(self, kind: FactorKind = "ekfac") -> Factors:
        """Fit the factors of a kind, or find those that were fitted before.

        Factors of an earlier state of the corpus, to which shards were only added since, are used
        as they are, and a warning says so.
        """
        self._start_actors()
        self.check()
        root = self.store / layout.FACTORS
        wanted = self.fit_plan(kind=kind)
        earlier = (
            self.fit_plan(n_shards, kind)
            for n_shards in shards_fitted_before(root, len(self.corpus.manifest.shards), kind)
        )
        for plan in (wanted, *earlier):
            factors = find_factors(root, plan)
            if factors is None:
                continue
            if plan is not wanted:
                self._warn(
                    f"the {kind} factors were fitted when the corpus had {plan.parts['n_shards']} "
                    f"of its {wanted.parts['n_shards']} shards. `rayinfluence clean --stage "
                    "factors` lets the next run, with --new-run, fit them again."
                )
            self.progress.note(f"factors      reused ({factors.n_sequences:,} sequences)")
            self._factors[kind] = plan, factors
            return factors
        if reasons := why_not_reused(root, wanted, self.model_record.differences):
            if not self._new_run:
                refuse_mixing(self.store, "factors that were", reasons)
            self.progress.note(f"factors      fitted anew: {'; '.join(reasons[:3])}")
        return self._fit(kind, wanted)

    def fit_all(self) -> dict[FactorKind, Factors]:
        """The factors that the methods need, by their kind; of those that need none, none."""
        found = {
            kind: self._factors[kind][1] if kind in self._factors else self.fit(kind)
            for kind in factors_needed(self.config.scan.fitted_for)
        }
        for kind, factors in found.items():
            reasons = ((number, reason) for number, reason in factors.manifest["quarantine"])
            for text in lost_sequences(f"the fit of the {kind} factors", reasons):
                self._warn(text)
        return found

    @own_arithmetic()
    def plan(self, actors: int | None = None) -> Plan:
        """Forecast the run from a few splits, for the configuration's replicas or this many."""
        self.begin(needs_queries=True)
        self.tokenize()
        self.check()
        return plan_run(self, actors or self.config.runner.most_actors)

    @own_arithmetic()
    def scan(self) -> dict[str, Results]:
        """Find the most influential sequences of every query.

        Writes and returns the results by method.
        """
        self._start_actors()
        self.begin(needs_queries=True)
        self.check()
        self.fit_all()
        splits = self.corpus.plan(self.numerics.split_tokens)
        config = self.config.scan
        prepared = self._prepared(config)
        made = list(prepared)
        if (cheap := cheap_pass(config)) is not None:
            made += self._prepared(cheap)
        self._without_damage(_stores(made), lambda: self._scan(prepared, splits))
        return {one.name: Results.load(self.store, one.name) for one in config.scored}

    @own_arithmetic()
    def score_all(self, config: ScanConfig, use: str) -> list[Scanned]:
        """Score all of the corpus with settings of a scan, for a use of its own, by method.

        Every score is kept beside its bank. No results are made, and those that there are stay.
        """
        self.check()
        for kind in factors_needed(config.methods):
            if kind not in self._factors:
                self.fit(kind)
        every = plain(config, config.methods, 1, "dense")
        splits, found = self.corpus.plan(self.numerics.split_tokens), list[Scanned]()

        def work() -> None:
            found[:] = self._pass(every, splits, use, splits)

        self._without_damage(_stores(self._prepared(every)), work)
        return found

    @own_arithmetic()
    def all(self) -> dict[str, Results]:
        """tokenize, fit and scan; whatever is done already is skipped."""
        self._start_actors()
        self.begin(needs_queries=True)
        self.tokenize()
        return self.scan()

    def _scan(self, prepared: Sequence[MethodQueries], splits: Sequence[Split]) -> None:
        """Make queries, scan with them and write results, from whatever of it is there.

        Banks are planned here, since one that has lost a query is none.
        """
        config = self.config.scan
        banks = self._banks(config, prepared)
        self.model_record.write()
        selection = self._selection(splits)
        filtered = self._filtered(selection.splits, splits)
        chosen = selection.splits if filtered is None else filtered.splits
        self._precondition(config, prepared, splits)
        n_training = self.n_training_sequences
        files = shard_files(self.corpus.manifest)
        # Of a row of features all numbers have one score.
        of_texts = not self.inputs.features
        by_token = (
            config.by_token if of_texts else 0,
            config.token_influences,
            config.pair_scores if of_texts else 0,
        )
        of_rows = {"selection": selection.report(), "filter": filtered and filtered.report()}
        part = of_rows if selection.left_out or filtered else None
        own = self.config.objective.function
        around = config.surroundings
        decided = banks, chosen, self.queries, n_training, *by_token, files, around, part, own
        if take_up_results(self.store, results_fingerprint(*decided)):
            self.progress.note("results      reused")
            return
        merged, self.set_aside = self._score(config, banks, chosen, splits, prepared)
        for aside in self.set_aside:
            self._warn(f"{aside.name} is not in the results: {aside.reason}")
        left = [(i, bad.reason) for _, partial in merged for i, bad in partial.quarantine.items()]
        for text in lost_sequences("the scan, for some query at least", left):
            self._warn(text)
        for key, count in left_out([one for _, one in merged]).items():
            self._warn(too_many_values(key, count))
        scanned = scanned_by_method(config.scored, merged)
        again = SecondPass(
            self.runner,
            self.replica,
            self.corpus_store,
            self.store / layout.RESCORED,
            chosen,
            self._operands(prepared),
            scanned,
            self.queries,
        )
        written = write_results(
            again,
            self.store,
            prepared,
            Documents(files, self.coding, config.grouped_by, around),
            *by_token,
            n_training,
            results_fingerprint(*decided, [one.digest for one in self.set_aside]),
            self.progress,
        )
        if written.warning:
            self._warn(written.warning)
        manifest = run_manifest(
            self, prepared, self.fit_all(), chosen, scanned, written, self.set_aside
        )
        write_manifest(self.store, manifest | of_rows)

    def _prepared(self, config: ScanConfig) -> list[MethodQueries]:
        """Where the queries of a pass's methods are."""
        return plan_methods(
            self.store,
            self.model_digest,
            list(self.replica.modules),
            {kind: factors for kind, (_, factors) in self._factors.items()},
            config,
            self.numerics,
            self.corpus.fingerprint,
            self._refinements(config),
        )

    def _refinements(self, config: ScanConfig) -> dict[str, Refinement]:
        """How queries are refined, by the methods of which they are; EK-FAC's factors are there."""
        found = {}
        for method, settings in solvers_of(config).items():
            n_shards = self._factors["ekfac"][1].manifest["parts"]["n_shards"]
            drawn_from = self.corpus, self.corpus.plan(self.numerics.split_tokens), n_shards
            told = *drawn_from, self.bad_sequences, self.config.seed, REFINABLE[method]
            found[method] = Refinement.plan(settings, *told)
        return found

    def _banks(
        self, config: ScanConfig, prepared: Sequence[MethodQueries], use: str | None = None
    ) -> list[BankPlan]:
        """The banks of a pass; those of a filter may be of other settings each time."""
        return plan_banks(
            self.store,
            prepared,
            [query.digest for query in self.queries],
            config,
            self.numerics,
            self._new_run or use is not None,
            self.model_record.differences,
            use,
        )

    def _precondition(
        self, config: ScanConfig, prepared: Sequence[MethodQueries], splits: Sequence[Split]
    ) -> None:
        """Make the queries of a pass."""
        for text in make_queries(self, config, prepared, self._operands, splits):
            self._warn(text)

    def _score(
        self,
        config: ScanConfig,
        banks: Sequence[BankPlan],
        chosen: Sequence[Split],
        splits: Sequence[Split],
        prepared: Sequence[MethodQueries],
    ) -> tuple[list[tuple[BankOperands, Partial]], list[Aside]]:
        """Score some of the splits, or splits of some of their rows."""
        note_splits(banks, chosen, splits)
        names = {query.digest: query.query.query_id for query in self.queries}
        beside = {**SELF_METHODS, **LAST_LAYER_METHODS}
        themselves = self._operands([one for one in prepared if one.method in beside])
        return scan(
            self.runner, self.corpus, chosen, banks, config, self.progress, names, themselves
        )

    def _selection(self, splits: Sequence[Split]) -> Selection:
        """What the configuration's section of the corpus leaves to be scanned."""
        conditions = self.inputs.conditions
        found = select(
            self.runner, self.corpus, self.store, splits, conditions, self.config, self.progress
        )
        for remark in found.remarks:
            self._warn(remark)
        return found

    def _filtered(self, chosen: Sequence[Split], splits: Sequence[Split]) -> Filtered | None:
        """The candidates among some sequences, where the configuration has a filter."""
        if self.config.scan.candidates is None:
            return None

        scan_some = partial(self._pass, splits=splits)
        earlier = earlier_results(self.config, self.corpus)
        asked = self.config.scan, chosen, self.queries
        found = filter_splits(*asked, scan_some, earlier, self.config.seed)
        self.progress.note(found.line)
        if found.warning:
            self._warn(found.warning)
        return found

    def _pass(
        self, config: ScanConfig, some: Sequence[Split], use: str, splits: Sequence[Split]
    ) -> list[Scanned]:
        """Scan some splits for a use of which no results are made, with banks that are its own."""
        prepared = self._prepared(config)
        banks = self._banks(config, prepared, use)
        self._precondition(config, prepared, splits)
        merged, aside = self._score(config, banks, some, splits, prepared)
        for one in aside:
            self._warn(f"{one.name} is not in the {use}: {one.reason}")
        return scanned_by_method(config.scored, merged)

    def _start_actors(self) -> None:
        """Let processes start, which takes seconds, while the model is loaded and checked."""
        if not self.has_begun:
            _ = self.inputs  # what is refused is refused first
            self.runner.get_ready(self.numerics.device)

    def _foretell(self, files: Sequence[Store], is_new: bool) -> None:
        """Say what the first documents tell; it is no warning of results, which know them all."""
        vocabulary = self.replica.vocabulary
        told = self.coding, vocabulary, self.context, is_new, self.inputs.conditions
        said = foretold(self.config, files, *told)
        for text in said:
            self.progress.warn(text)

    def _fit(self, kind: FactorKind, plan: FitPlan) -> Factors:
        self.model_record.write()
        root = self.store / layout.FACTORS

        def work() -> Factors:
            return fit(
                self.runner,
                self.corpus_store,
                root,
                plan,
                self.replica.shapes,
                self.progress,
                self.config.runner.checkpoint_seconds,
                self.numerics.device,
            )

        factors = without_damage(self.runner, [root / plan.fingerprint], work, self.progress)
        self._factors[kind] = plan, factors
        return factors

    def _operands(
        self, methods: Sequence[MethodQueries], counts: TermCounts | None = None
    ) -> list[MethodOperands]:
        """What methods need."""
        factors = {kind: found for kind, (_, found) in self._factors.items()}
        return method_operands(self.runner, methods, factors, counts)

    def _without_damage(self, queries: Sequence[Store], work: Callable[[], None]) -> None:
        """Work that makes and reads queries; damaged ones are made again.

        So are damaged factors: they are put together from the fit's sums.
        """
        stores = [*(factors.store for _, factors in self._factors.values()), *queries]

        def attempt() -> None:
            for kind, (plan, _) in list(self._factors.items()):
                if find_factors(self.store / layout.FACTORS, plan) is None:
                    self._fit(kind, plan)
            work()

        without_damage(self.runner, stores, attempt, self.progress)


def _stores(methods: Sequence[MethodQueries]) -> list[Store]:
    """Where queries are, as they are scanned and as solvers have them, and last layers."""
    stores = [store for one in methods for store in (one.store, one.whole) if store is not None]
    refits = [one.refit for one in methods if one.refit is not None]
    return stores + [store for one in refits for store in (one.store, one.features)]


def run(config: RunConfig) -> Results:
    """Do everything a configuration says, skip what is done, and return the first method's results.

    Raises:
        RayInfluenceError: with a sentence that says what is wrong, where, and what to do.
    """
    with Run(config) as opened:
        results = opened.all()
    return results[config.scan.scored[0].name]
