"""The code that runs is that of the folder that is named, whatever this process loaded before."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from folder_code import bring_code
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from rayinfluence.corpus.tokenizer_files import load_tokenizer
from rayinfluence.errors import ModelError
from rayinfluence.model.identity import model_differences, model_digest, model_identity
from rayinfluence.model.load import load_model
from rayinfluence.registered import PACKAGE, _registers
from rayinfluence.testing import tiny_run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A model of code of its own, which calls itself 1; other tests meet nothing of it."""
    before = [(register, dict(register)) for register in _registers()]
    cache = tmp_path / "cache"
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(cache))
    monkeypatch.syspath_prepend(str(cache))
    for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
        monkeypatch.delitem(sys.modules, name)
    tiny_run(tmp_path)
    bring_code(tmp_path / "model")
    say(tmp_path / "model", 1)
    yield tmp_path / "model"
    for register, entries in before:
        register.clear()
        register.update(entries)


def say(folder: Path, which: int) -> None:
    """Let a folder's model call itself by another number; its configuration stays as it is."""
    code = folder / "modeling_own.py"
    code.write_text(f"{code.read_text()}\nOwnModel.which = {which}\n")


def loaded(folder: Path) -> int:
    return load_model(str(folder), torch.float32, trust_remote_code=True).which  # type: ignore


def copied(folder: Path, which: int) -> Path:
    """A folder of the same name elsewhere, with other code."""
    other = folder.parent / "other" / folder.name
    shutil.copytree(folder, other)
    say(other, which)
    return other


def test_code_of_a_folder_of_the_same_name_is_that_folder_s(folder: Path) -> None:
    other = copied(folder, 2)
    assert [loaded(folder), loaded(other), loaded(folder)] == [1, 2, 1]


def test_other_code_in_a_model_s_folder_makes_another_model(folder: Path) -> None:
    def identity(of: Path) -> dict[str, Any]:
        return model_identity(load_model(str(of), torch.float32, trust_remote_code=True))

    ours, theirs = identity(folder), identity(copied(folder, 2))
    assert set(ours["code"]) >= {"modeling_own"}
    assert model_digest(ours) != model_digest(theirs)
    assert model_differences(theirs, ours) == ["code: modeling_own.py differs"]


def test_code_that_was_edited_is_run_as_it_is_now(folder: Path) -> None:
    assert loaded(folder) == 1
    say(folder, 2)
    assert loaded(folder) == 2


def test_a_file_that_the_model_s_imports_is_read_again(folder: Path) -> None:
    """The model's own file says nothing of the change."""
    (folder / "parts_own.py").write_text("which = 1\n")
    code = folder / "modeling_own.py"
    code.write_text(f"{code.read_text()}\nfrom .parts_own import which\nOwnModel.which = which\n")
    assert loaded(folder) == 1
    (folder / "parts_own.py").write_text("which = 2\n")
    assert loaded(folder) == 2


def test_code_that_registers_itself_is_that_of_its_folder(folder: Path) -> None:
    """As much code does at its end, for models that have others inside."""
    code = folder / "modeling_own.py"
    code.write_text(
        f"{code.read_text()}\nfrom transformers import AutoConfig, AutoModelForCausalLM\n"
        'AutoConfig.register("own", OwnConfig, exist_ok=True)\n'
        "AutoModelForCausalLM.register(OwnConfig, OwnModel, exist_ok=True)\n"
    )
    other = copied(folder, 2)
    configuration = other / "configuration_own.py"
    configuration.write_text(configuration.read_text() + "    other = True\n")
    assert [loaded(folder), loaded(other), loaded(folder)] == [1, 2, 1]


def test_code_does_not_run_without_trust_because_it_ran_before(folder: Path) -> None:
    code = folder / "modeling_own.py"
    code.write_text(
        f"{code.read_text()}\nfrom transformers import AutoConfig\n"
        'AutoConfig.register("own", OwnConfig)\n'
    )
    assert loaded(folder) == 1
    with pytest.raises(ModelError, match="set `trust_remote_code: true` to let it run"):
        load_model(str(folder), torch.float32)


def test_a_tokenizer_s_code_is_that_of_its_folder(folder: Path) -> None:
    code = folder / "tokenization_own.py"
    (folder / "tokenizer.json").rename(folder / "own.json")
    code.write_text(
        f"{code.read_text()}\nfrom transformers import AutoTokenizer, GPT2Config\n"
        "from transformers import PreTrainedTokenizerFast as Fast\n"
        "def made(path, *args, **kwargs):\n"
        '    return Fast(tokenizer_file=f"{path}/own.json", unk_token="1")\n'
        "OwnTokenizer.from_pretrained = made\n"
        "AutoTokenizer.register(GPT2Config, OwnTokenizer, exist_ok=True)\n"
    )
    assert load_tokenizer(str(folder), trust_remote_code=True).unk_token == "1"
    code.write_text(code.read_text().replace('"1"', '"2"'))
    assert load_tokenizer(str(folder), trust_remote_code=True).unk_token == "2"


def test_what_a_caller_registered_stays(folder: Path) -> None:
    class CallersConfig(GPT2Config):
        model_type = "a caller's"

    class CallersModel(GPT2LMHeadModel):
        config_class = CallersConfig

    AutoConfig.register("a caller's", CallersConfig)
    AutoModelForCausalLM.register(CallersConfig, CallersModel)
    assert loaded(folder) == 1
    mine = folder.parent / "mine"
    shutil.copytree(folder, mine)
    config = json.loads((mine / "config.json").read_text()) | {"model_type": "a caller's"}
    (mine / "config.json").write_text(json.dumps({**config, "auto_map": {}}))
    assert isinstance(load_model(str(mine), torch.float32), CallersModel)
