"""The farm: what is trained, kept, done again and refused."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from counted_trainings import count
from rich.console import Console
from safetensors.torch import load_file, save_file

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.compute.scoring import query_gradient
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.dataflow.status import status
from rayinfluence.errors import ConfigError, InputError, ModelError
from rayinfluence.evaluation import retraining as module
from rayinfluence.evaluation.bank import Bank
from rayinfluence.evaluation.farm import open_farm
from rayinfluence.evaluation.subsets import added, full, without
from rayinfluence.model.load import load_model
from rayinfluence.storage.store import Store
from rayinfluence.testing import tiny_run

PLANNED = {"options": {"epochs": 2, "batch": 8}, "half": 2, "drop": {0.05: 1}, "seeds": [0, 3]}


def farmed(folder: Path, **overrides: Any) -> RunConfig:
    """A tiny run whose model is not there yet: training begins from `start`."""
    folder.mkdir(parents=True, exist_ok=True)
    options = {"start": str(folder / "start"), **PLANNED["options"]}
    evaluation = {**PLANNED, "options": options, **overrides.pop("evaluation", {})}
    config = tiny_run(folder, 40, evaluation=evaluation, **overrides)
    shutil.move(folder / "model", folder / "start")
    return config


def harvest(config: RunConfig, said: io.StringIO | None = None) -> Bank:
    """All that the configuration asks for."""
    log = ProgressLog(Console(file=said or io.StringIO(), width=1000))
    with open_farm(config, log) as farm:
        return farm.bank(farm.planned())


def objects(config: RunConfig) -> dict[str, bytes]:
    """What the farm has committed, by key; what a training took is of no interest."""
    folder = Path(config.run) / "evaluation"
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {key: body for key, body in found.items() if not key.endswith("took.json")}


@pytest.fixture(scope="module")
def harvested(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Bank, str]:
    """A farm that is done; nobody may change it."""
    said = io.StringIO()
    config = farmed(tmp_path_factory.mktemp("farm"))
    return config, harvest(config, said), said.getvalue()


@pytest.fixture
def copy(harvested: tuple[RunConfig, Bank, str], tmp_path: Path) -> RunConfig:
    """A copy of it, to change."""
    config = harvested[0]
    shutil.copytree(Path(config.run).parent, tmp_path / "copy")
    moved = config.model_dump_json().replace(str(Path(config.run).parent), str(tmp_path / "copy"))
    return RunConfig.model_validate_json(moved)


def test_a_bank_has_a_row_for_each_training(harvested: tuple[RunConfig, Bank, str]) -> None:
    config, bank, _ = harvested
    assert bank.designs == ("full", "full", *["half", "half", "drop"] * 2)
    assert bank.seeds_S.tolist() == [0, 3, 0, 0, 0, 3, 3, 3]
    n = len(bank.about.sequence_ids)
    assert bank.weights_SN.dtype == np.float32
    assert bank.weights_SN.sum(1).tolist() == [n, n, *[n // 2, n - n // 2, n - round(n / 20)] * 2]
    assert bank.values_SQ.shape == (8, 3)
    assert bank.values_SQ.dtype == np.float64
    assert len(np.unique(bank.values_SQ)) == 24
    assert np.isfinite(bank.losses_S).all()
    [key] = [key for key in objects(config) if key.endswith("bank.parquet")]
    again = Bank.read(Store(config.run) / "evaluation", key)
    assert again.about == bank.about
    assert again.subsets == bank.subsets
    assert np.array_equal(again.values_SQ, bank.values_SQ)
    assert np.array_equal(again.losses_S, bank.losses_S)


def test_the_full_model_is_where_the_run_looks_for_it(
    harvested: tuple[RunConfig, Bank, str], copy: RunConfig, quiet: ProgressLog
) -> None:
    """What the run's own code says of its queries is what the farm has measured, in float64."""
    bank = harvested[1]
    exact = copy.model_copy(update={"dtype": "float64"})
    for row, model in enumerate([copy.model, f"{copy.model}-seed-3"]):
        with Run(exact.model_copy(update={"model": model}), quiet) as run:
            found = [query_gradient(run.replica, query).value for query in run.queries]
        assert found == pytest.approx(bank.values_SQ[row], rel=1e-12)
    start = load_model(str(Path(copy.model).parent / "start"), torch.float32)
    after = load_model(copy.model, torch.float32)
    pairs = zip(start.parameters(), after.parameters(), strict=True)
    assert not any(torch.equal(one, other) for one, other in pairs)


def test_a_farm_changes_nothing_of_a_run(copy: RunConfig, quiet: ProgressLog) -> None:
    with Run(copy.model_copy(update={"evaluation": None}), quiet) as run:
        run.all()
    before = {p: p.read_bytes() for p in Path(copy.run).rglob("*.*") if p.name != "config.json"}
    log = io.StringIO()
    with Run(copy, ProgressLog(Console(file=log, width=1000))) as run:
        run.all()
    assert "results      reused" in log.getvalue()
    assert status(Store(copy.run), Store(copy.run) / "corpus").current
    after = {p: p.read_bytes() for p in Path(copy.run).rglob("*.*") if p.name != "config.json"}
    assert after == before


def test_the_budget_is_said_before_it_is_spent(harvested: tuple[RunConfig, Bank, str]) -> None:
    lines = [line for line in harvested[2].splitlines() if line.startswith("retrain ")]
    [said] = [line for line in lines if "these take about" in line]
    assert "6 of 8 trainings of " in said
    assert re.search(
        r"took \d+\.\d s on one CPU, so that these take about \d+ s of one, less", said
    )
    assert lines.index(said) < len(lines) - 1


def test_what_is_there_is_not_trained_again(
    harvested: tuple[RunConfig, Bank, str], copy: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, trained = objects(copy), count(monkeypatch)
    said = io.StringIO()
    assert np.array_equal(harvest(copy, said).values_SQ, harvested[1].values_SQ)
    assert trained == []
    assert objects(copy) == before
    assert "0 of 8 trainings" in said.getvalue()


def test_more_subsets_are_trained_alone(copy: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    before, trained = objects(copy), count(monkeypatch)
    with open_farm(copy, ProgressLog(quiet=True)) as farm:
        more = [without([4, 2], 0, 0), added([7], 0, 3), full(0)]
        bank = farm.bank([*farm.planned(), *more])
    assert trained == [more[0].digest, more[1].digest]
    assert bank.designs[-2:] == ("without", "add")
    after = objects(copy)
    assert {key: after[key] for key in before if "bank" not in key} == {
        key: body for key, body in before.items() if "bank" not in key
    }


def test_an_interrupted_farm_goes_on_to_the_same_bytes(
    harvested: tuple[RunConfig, Bank, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = farmed(tmp_path / "again")
    original, n_left = module.write_tensors, 4  # of two models, and what they say, one is missing

    def killed(*arguments: Any) -> None:
        nonlocal n_left
        n_left -= 1
        if not n_left:
            raise KeyboardInterrupt
        original(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(module, "write_tensors", killed)
        with pytest.raises(KeyboardInterrupt):
            harvest(config)
    assert len(objects(config)) == 3
    harvest(config)
    assert objects(config) == objects(harvested[0])


@pytest.mark.parametrize("which", ["bank", "outcome", "model", "folder"])
def test_what_is_damaged_or_lost_is_made_again(
    harvested: tuple[RunConfig, Bank, str], copy: RunConfig, which: str
) -> None:
    folder = Path(copy.run) / "evaluation"
    if which == "folder":
        shutil.rmtree(copy.model)
    else:
        pattern = {"bank": "bank.parquet", "model": "*.model.safetensors"}
        [*_, path] = [
            path
            for path in sorted(folder.rglob(pattern.get(which, "*.safetensors")))
            if which != "outcome" or ".model." not in path.name
        ]
        body = bytearray(path.read_bytes())
        body[-9] ^= 1
        path.write_bytes(body)
    assert np.array_equal(harvest(copy).values_SQ, harvested[1].values_SQ)
    assert objects(copy) == objects(harvested[0])
    assert load_model(copy.model, torch.float32)


@pytest.mark.parametrize("held", ["notes.txt", "config.json", "adapter_config.json", "a/b.bin"])
def test_a_folder_that_holds_something_is_not_written_to(tmp_path: Path, held: str) -> None:
    config = farmed(tmp_path)
    path = Path(config.model) / held
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    with pytest.raises(ModelError, match=config.model):
        harvest(config)
    assert [p for p in Path(config.model).rglob("*") if p.is_file()] == [path]


def test_a_model_of_which_half_was_written_is_written_again(copy: RunConfig) -> None:
    folder = Path(copy.model)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "config.json").unlink()
    (folder / "model.safetensors").rename(folder / ".model.safetensors.half")
    harvest(copy)
    (folder / ".model.safetensors.half").unlink()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole


def test_a_run_in_object_storage_has_the_same_objects(
    harvested: tuple[RunConfig, Bank, str], s3: dict[str, Any], tmp_path: Path
) -> None:
    config = farmed(tmp_path / "s3", run="s3://bucket/run", storage=s3)
    bank = harvest(config)
    assert np.array_equal(bank.values_SQ, harvested[1].values_SQ)
    store = Store("s3://bucket/run/evaluation", s3)
    found = {key: store.read(key) for key in store.list() if not key.endswith("took.json")}
    assert found == objects(harvested[0])
    assert load_model(config.model, torch.float32)


def test_a_model_of_another_origin_stays_and_is_told_apart(tmp_path: Path) -> None:
    config = farmed(tmp_path, evaluation={"half": 0, "drop": {}, "seeds": [0]})
    shutil.copytree(tmp_path / "start", config.model)
    before = (Path(config.model) / "model.safetensors").read_bytes()
    said = io.StringIO()
    harvest(config, said)
    assert (
        f"{config.model} is not the model that the recipe makes of this corpus" in said.getvalue()
    )
    assert (Path(config.model) / "model.safetensors").read_bytes() == before
    assert (Path(f"{config.model}-seed-0") / "model.safetensors").read_bytes() != before
    said = io.StringIO()
    harvest(config.model_copy(update={"model": f"{config.model}-seed-0"}), said)
    assert "warning" not in said.getvalue()


def test_other_queries_are_other_outcomes_of_the_same_recipe(
    harvested: tuple[RunConfig, Bank, str], copy: RunConfig
) -> None:
    path = Path(str(copy.queries))
    path.write_text("\n".join(path.read_text().splitlines()[1:]) + "\n")
    bank = harvest(copy)
    assert bank.about.recipe == harvested[1].about.recipe
    assert bank.about.query_ids == ("q1", "q2")
    assert np.array_equal(bank.values_SQ, harvested[1].values_SQ[:, 1:])


def test_all_forms_of_queries_are_measured_as_the_run_measures_them(
    tmp_path: Path, quiet: ProgressLog
) -> None:
    config = farmed(tmp_path, evaluation={"half": 0, "drop": {}, "seeds": [0]}, dtype="float64")
    forms = [
        '{"query_id": "plain", "prompt": "w1 w2", "completion": " w3 w4"}',
        '{"query_id": "mean", "prompt": "w1", "completion": " w3 w4 w9", "reduction": "mean"}',
        '{"query_id": "margin", "prompt": "w1", "completion": " w3", "measurement": "margin"}',
        '{"query_id": "contrast", "prompt": "w1", "completion": " w3", "rather_than": " w4"}',
    ]
    Path(str(config.queries)).write_text("\n".join(forms) + "\n")
    bank = harvest(config)
    with Run(config, quiet) as run:
        found = [query_gradient(run.replica, query).value for query in run.queries]
    assert bank.about.query_ids == ("plain", "mean", "margin", "contrast")
    assert found == pytest.approx(bank.values_SQ[0], rel=1e-12)


def test_a_new_model_is_made_for_a_tokenizer(tmp_path: Path) -> None:
    sizes = {"context": 16, "width": 8, "layers": 1, "heads": 2}
    options = {"sizes": sizes, "start": None, "epochs": 1}
    config = farmed(tmp_path, evaluation={"options": options, "drop": {}, "seeds": [1]})
    with pytest.raises(ConfigError, match="name its folder under `tokenizer`"):
        harvest(config)
    bank = harvest(config.model_copy(update={"tokenizer": str(tmp_path / "start")}))
    assert bank.designs == ("full", "half", "half")
    model = load_model(config.model, torch.float32)
    assert (model.config.n_embd, model.config.n_positions) == (8, 16)


@pytest.fixture
def recipes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Makes `recipes_of_users` a module that can be imported."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return


def of_a_user(folder: Path, name: str, **evaluation: Any) -> RunConfig:
    values = {"options": {"start": str(folder / "start")}, "seeds": [0], "drop": {}, "half": 2}
    return farmed(folder, evaluation={**values, "recipe": f"recipes_of_users:{name}", **evaluation})


@pytest.mark.usefixtures("recipes")
def test_a_recipe_of_the_user_s_own(tmp_path: Path) -> None:
    from recipes_of_users import one_step

    config = of_a_user(tmp_path, "one_step")
    with open_farm(config, ProgressLog(quiet=True)) as farm:
        bank = farm.bank(farm.planned())
        examples = farm.retraining.examples()
        model, loss = one_step(examples.sequences, bank.weights_SN[1], 0)
        numerics, queries = farm.retraining.numerics, farm.retraining.queries
        assert np.array_equal(module.measure(model, queries, numerics), bank.values_SQ[1])
    assert bank.losses_S[1] == loss
    assert bank.about.parts["recipe"].keys() == {"name", "source"}


@pytest.mark.usefixtures("recipes")
def test_what_a_recipe_draws_of_torch_follows_from_the_seed(tmp_path: Path) -> None:
    config = of_a_user(tmp_path, "draws", seeds=[0, 1], half=2)
    state = torch.random.get_rng_state()
    bank = harvest(config)
    assert torch.equal(state, torch.random.get_rng_state())
    of_seed = {seed: bank.values_SQ[bank.seeds_S == seed] for seed in (0, 1)}
    assert all((values == values[0]).all() for values in of_seed.values())
    assert not np.array_equal(of_seed[0], of_seed[1])
    assert np.isnan(bank.losses_S).all()  # it tells none


@pytest.mark.usefixtures("recipes")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("fails", "recipes_of_users:fails fails: RuntimeError: no luck"),
        ("exits", "recipes_of_users:exits fails: SystemExit: no model for you"),
        ("never_the_same", "gives another model when it is called again .* differs by up to [0-9]"),
        ("returns_nothing", "returns a NoneType, and the trained model is needed"),
        ("knows_few_tokens", "model that .*:knows_few_tokens returns cannot be asked .*IndexError"),
        ("without_head", "model that .*:without_head returns cannot be asked .*gives no logits"),
        ("nowhere", "defines no function nowhere; write `def nowhere.sequences, weights, seed"),
    ],
)
def test_a_recipe_that_is_none_is_refused(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        harvest(of_a_user(tmp_path, name))


@pytest.mark.usefixtures("recipes")
def test_what_a_recipe_leaves_behind_decides_nothing(tmp_path: Path) -> None:
    there = Path.cwd(), torch.get_num_threads(), torch.get_default_dtype()
    config = of_a_user(tmp_path, "leaves_traces")
    with open_farm(config, ProgressLog(quiet=True)) as farm:
        threads = torch.get_num_threads()
        farm.bank(farm.planned())
        assert (Path.cwd(), torch.get_num_threads()) == (there[0], threads)
    assert (Path.cwd(), torch.get_num_threads(), torch.get_default_dtype()) == there


@pytest.mark.parametrize(
    ("overrides", "error", "said"),
    [
        ({"evaluation": {"options": {}}}, ConfigError, "there is no model in .*options.start"),
        ({"objective": {"reduction": "mean"}}, ConfigError, "each sequence counts alike"),
        (
            {"evaluation": {"options": {"start": "nowhere"}}},
            ModelError,
            r"evaluation\.options\.start: there is no folder nowhere",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused(
    tmp_path: Path, overrides: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        harvest(farmed(tmp_path, **overrides))


def test_without_a_section_there_is_no_farm(
    finished: tuple[Path, RunConfig], change: Callable[..., RunConfig]
) -> None:
    with pytest.raises(ConfigError, match="evaluation: the configuration does not say"):
        harvest(finished[1])
    with pytest.raises(ConfigError, match="has to know what training begins from"):
        harvest(
            change(finished[1], run=finished[1].run + "-other", evaluation=None).model_copy(
                update={
                    "evaluation": RunConfig.parse(
                        {"run": "a", "model": "b", "evaluation": {}}
                    ).evaluation
                }
            )
        )


def test_a_start_that_changed_since_is_refused(copy: RunConfig) -> None:
    with open_farm(copy, ProgressLog(quiet=True)) as farm:
        recipe = farm.recipe
        path = Path(copy.model).parent / "start" / "config.json"
        path.write_text(path.read_text() + " ")
        with pytest.raises(ModelError, match="was changed since"):
            recipe.train(farm.retraining.examples(), np.ones(3, np.float32), 0, lambda tokens: None)


def test_a_table_that_is_named_is_used_and_nothing_is_trained(
    harvested: tuple[RunConfig, Bank, str], copy: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert copy.evaluation is not None
    [path] = (Path(copy.run) / "evaluation").rglob("bank.parquet")
    kept = path.rename(Path(copy.run).parent / "kept.parquet")
    shutil.rmtree(Path(copy.run) / "evaluation")
    named = {"evaluation": copy.evaluation.model_copy(update={"bank": str(kept)})}
    config, trained = copy.model_copy(update=named), count(monkeypatch)
    queries = Path(str(copy.queries))
    queries.write_text("\n".join(reversed(queries.read_text().splitlines())) + "\n")
    with open_farm(config, ProgressLog(quiet=True)) as farm:
        bank = farm.asked_for()
    assert np.array_equal(bank.values_SQ, harvested[1].values_SQ[:, ::-1])
    assert not trained
    with Path(str(copy.corpus.documents[0])).open("a") as documents:
        documents.write('{"id": "new", "text": "w1 w2 w3"}\n')
    shutil.rmtree(Path(copy.run) / "corpus")
    with (
        open_farm(config, ProgressLog(quiet=True)) as farm,
        pytest.raises(InputError, match="of them among those: all have to be"),
    ):
        farm.asked_for()


@pytest.mark.parametrize("what", ["weight", "adapter"])
def test_a_start_that_is_not_whole_is_refused(copy: RunConfig, what: str) -> None:
    start = Path(copy.model).parent / "start"
    if what == "weight":
        tensors = load_file(start / "model.safetensors")
        del tensors["transformer.h.0.mlp.c_fc.weight"]
        save_file(tensors, start / "model.safetensors", metadata={"format": "pt"})
    else:
        (start / "adapter_config.json").write_text(
            json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(start)})
        )
        (start / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="missing" if what == "weight" else "adapter"):
        harvest(copy)


def test_groups_are_what_documents_have_in_common(copy: RunConfig) -> None:
    with open_farm(copy, ProgressLog(quiet=True)) as farm:
        found = farm.groups("source")
        assert sorted(found) == ["alpha", "beta", "gamma"]
        assert sorted(one for ids in found.values() for one in ids) == farm.ids_N.tolist()
        assert farm.groups("nothing") == {}
