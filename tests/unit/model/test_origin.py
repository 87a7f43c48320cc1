from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import light_nets
import pytest
import torch
import yaml
from light_nets import answer_digest
from torch import nn

import lwplugin.model as lw
from lwplugin.errors import ModelError
from lwplugin.model.uninitialised import build_uninitialised
from lwplugin.model.unpickle import load_pickle

Fresh = Callable[[Path, object], str]


def mlflow_pytorch(
    place: Path, value: Any, *, code: dict[str, str] | None = None, file: str = "model.pth"
) -> Path:
    """The layout that mlflow.pytorch.save_model writes."""
    (place / "data").mkdir(parents=True)
    torch.save(
        value, place / "data" / file, pickle_module=_with_unpickler() if file == "model.pth" else pickle
    )
    (place / "data" / "pickle_module_info.txt").write_text("mlflow.pytorch.pickle_module")
    for name, text in (code or {}).items():
        (place / "code").mkdir(exist_ok=True)
        (place / "code" / name).write_text(text)
    flavor = {
        "model_data": "data",
        "pytorch_version": str(torch.__version__),
        "code": "code" if code else None,
    }
    (place / "MLmodel").write_text(yaml.safe_dump({"flavors": {"pytorch": flavor, "python_function": {}}}))
    return place


def _with_unpickler() -> Any:
    cloudpickle.Unpickler = pickle.Unpickler
    return cloudpickle


def test_pickled_model_survives_in_a_bundle_of_its_own(tmp_path: Path, fresh_output: Fresh) -> None:
    directory = mlflow_pytorch(tmp_path / "pulled", light_nets.net(width=8, blocks=2))
    origin = lw.MlflowOrigin.detect(directory)
    light = lw.light(origin.build(), origin)
    module = light.copy_module()
    module.head = nn.Linear(8, 4, bias=False)
    light = light.evolve(module, lw.HistoryEntry(step="prune"))
    light.save(tmp_path / "bundle")
    shutil.rmtree(directory)
    x = torch.randn(2, 3, 4, 4)
    assert fresh_output(tmp_path / "bundle", x) == answer_digest(light.module, x)


_CODE = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)
    def forward(self, x):
        return self.linear(x) * {factor}
"""


def _logged_with_code(place: Path, factor: int) -> Path:
    """A model whose class is only in the code that was logged beside it."""
    source = place.with_suffix(".src")
    source.mkdir()
    (source / "logged_code_net.py").write_text(_CODE.format(factor=factor))
    script = (
        "import sys, torch; sys.path.insert(0, sys.argv[1]); torch.manual_seed(0); import logged_code_net\n"
        "torch.save(logged_code_net.Net(), sys.argv[2])"
    )
    subprocess.run([sys.executable, "-c", script, str(source), str(place) + ".pth"], check=True)
    code = {"logged_code_net.py": _CODE.format(factor=factor)}
    directory = mlflow_pytorch(place, nn.Identity(), code=code)
    shutil.move(str(place) + ".pth", directory / "data" / "model.pth")
    return directory


@pytest.mark.slow
def test_code_logged_with_the_model_is_used_and_not_mixed_up(tmp_path: Path, fresh_output: Fresh) -> None:
    x = torch.randn(4, 3)
    answers = []
    for factor in (1, 100):
        origin = lw.MlflowOrigin(_logged_with_code(tmp_path / f"model{factor}", factor))
        light = lw.light(origin.build(), origin)
        light.save(tmp_path / f"bundle{factor}")
        answers.append(light.module(x))
        assert fresh_output(tmp_path / f"bundle{factor}", x) == answer_digest(light.module, x)
    assert torch.equal(answers[0] * 100, answers[1])


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch pwned",)


class EvilModule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.payload = Evil()


def test_dangerous_pickle_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for legacy in (False, True):
        directory = mlflow_pytorch(tmp_path / f"evil{legacy}", nn.Identity())
        torch.save(EvilModule(), directory / "data" / "model.pth", _use_new_zipfile_serialization=not legacy)
        with pytest.raises(ModelError, match=r"may run commands.*system"):
            lw.MlflowOrigin(directory).build()
    assert not (tmp_path / "pwned").exists()


def test_an_archive_bomb_is_never_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("unpacked"))
    bomb = tmp_path / "model.pth"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    with pytest.raises(ModelError, match="50,000,000"):
        load_pickle(bomb, allow_pickle=True)
    whole = tmp_path / "whole.pth"
    torch.save(nn.Linear(200, 200), whole)
    monkeypatch.setenv("LWPLUGIN_MAX_MODEL_BYTES", "1000")
    with pytest.raises(ModelError, match="LWPLUGIN_MAX_MODEL_BYTES"):
        load_pickle(whole, allow_pickle=True)


def test_pickles_can_be_turned_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    origin = lw.MlflowOrigin(mlflow_pytorch(tmp_path / "pulled", light_nets.net()))
    lw.light(origin.build(), origin).save(tmp_path / "bundle")
    lw.light(light_nets.Net()).save(tmp_path / "factory")
    with pytest.raises(ModelError, match="turned off"):
        lw.load(tmp_path / "bundle", allow_pickle=False)
    monkeypatch.setenv("LWPLUGIN_ALLOW_PICKLE", "0")
    with pytest.raises(ModelError, match="turned off"):
        lw.load(tmp_path / "bundle")
    lw.load(tmp_path / "factory")
    lw.load(tmp_path / "bundle", allow_pickle=True)


def test_pt2_is_refused_with_the_way_out(tmp_path: Path) -> None:
    directory = mlflow_pytorch(tmp_path / "pulled", {}, file="model.pt2")
    with pytest.raises(ModelError, match=r"serialization_format='pickle'.*FactoryOrigin"):
        lw.MlflowOrigin.detect(directory).build()


@pytest.mark.parametrize("what", ["state", "script", "truncated", "garbage"])
def test_files_that_hold_no_module(tmp_path: Path, what: str) -> None:
    directory = mlflow_pytorch(tmp_path / "pulled", light_nets.wide().state_dict())
    file = directory / "data" / "model.pth"
    if what == "script":
        torch.jit.script(light_nets.wide()).save(str(file))
    elif what == "truncated":
        file.write_bytes(file.read_bytes()[:-500])
    elif what == "garbage":
        file.write_bytes(b"garbage" * 100)
    with pytest.raises(ModelError):
        lw.MlflowOrigin(directory).build()


@pytest.mark.parametrize(
    "text",
    ["", "flavors: 3", "flavors: {sklearn: {}}", "flavors: {pytorch: {model_data: ../../etc}}", "{", "- a"],
)
def test_unusable_mlmodel(tmp_path: Path, text: str) -> None:
    directory = mlflow_pytorch(tmp_path / "pulled", nn.Identity())
    (directory / "MLmodel").write_text(text)
    with pytest.raises(ModelError):
        lw.MlflowOrigin.detect(directory).build()


def test_links_in_the_model_directory_are_not_copied(tmp_path: Path) -> None:
    directory = mlflow_pytorch(tmp_path / "pulled", light_nets.net())
    (directory / "passwords").symlink_to("/etc/passwd")
    origin = lw.MlflowOrigin(directory)
    with pytest.raises(ModelError, match="link"):
        lw.light(origin.build(), origin).save(tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def mlflow_transformers(place: Path, model: Any, **flavor: Any) -> Path:
    """The layout that mlflow.transformers.save_model writes."""
    model.save_pretrained(place / "model")
    options = {"model_binary": "model", "pipeline_model_type": type(model).__name__, "code": None, **flavor}
    (place / "MLmodel").write_text(yaml.safe_dump({"flavors": {"transformers": options}}))
    return place


@pytest.mark.slow
@pytest.mark.parametrize("name", ["BertModel", "BertForMaskedLM", "GPT2LMHeadModel"])
def test_transformers_model_without_any_pickle(tmp_path: Path, fresh_output: Fresh, name: str) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    cls = getattr(transformers, name)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
    config = cls.config_class(
        vocab_size=50, **({"n_embd": 32, "n_layer": 2, "n_head": 4} if "GPT" in name else small)
    )
    origin = lw.MlflowOrigin.detect(mlflow_transformers(tmp_path / "pulled", cls(config)))
    light = lw.light(origin.build(allow_pickle=False), origin)
    module = light.copy_module()
    if "GPT" in name:
        module.transformer.h[0].mlp.c_fc.weight = nn.Parameter(
            module.transformer.h[0].mlp.c_fc.weight[:, :64].clone()
        )
        module.transformer.h[0].mlp.c_fc.bias = nn.Parameter(
            module.transformer.h[0].mlp.c_fc.bias[:64].clone()
        )
        module.transformer.h[0].mlp.c_fc.nf = 64
        module.transformer.h[0].mlp.c_proj.weight = nn.Parameter(
            module.transformer.h[0].mlp.c_proj.weight[:64].clone()
        )
        module.transformer.h[0].mlp.c_proj.nx = 64
    else:
        encoder = module.bert.encoder if "Masked" in name else module.encoder
        encoder.layer[0].intermediate.dense = nn.Linear(32, 16)
        encoder.layer[0].output.dense = nn.Linear(16, 32)
        del encoder.layer[1]
    light = light.evolve(module, lw.HistoryEntry(step="prune"))
    light.save(tmp_path / "bundle")
    shutil.rmtree(tmp_path / "pulled")
    loaded = lw.load(tmp_path / "bundle", allow_pickle=False)
    ids = torch.randint(0, 50, (2, 7))
    with torch.no_grad():
        expected = light.module(ids)[0]
        assert torch.equal(loaded.module(ids)[0], expected)
    assert fresh_output(tmp_path / "bundle", {"input_ids": ids}) == answer_digest(
        lambda x: light.module(x)[0], ids
    )


def test_transformers_class_outside_the_library_is_refused(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    directory = mlflow_transformers(
        tmp_path / "pulled", transformers.BertModel(config), pipeline_model_type="pipeline"
    )
    with pytest.raises(ModelError, match="not one of the installed transformers"):
        lw.MlflowOrigin.detect(directory).build()
    (directory / "model" / "model.safetensors").rename(directory / "model" / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        lw.MlflowOrigin.detect(directory).build()


def test_build_without_numbers_keeps_structure_and_other_random_draws() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        full = light_nets.Shuffled()
        torch.manual_seed(7)
        quick = build_uninitialised(light_nets.Shuffled)
    assert quick.order == full.order
    assert lw.Skeleton.of(build_uninitialised(light_nets.Net)) == lw.Skeleton.of(light_nets.Net())


def test_in_memory_model_says_how_to_be_saved() -> None:
    light = lw.light(light_nets.Net(width=16))
    with pytest.raises(ModelError, match=r"origin=lwplugin\.FactoryOrigin"):
        light.save("/nonexistent/never")
