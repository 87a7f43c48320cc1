"""Damaged and hostile bundles: the same model loads, or ModelError says what is wrong. Nothing else."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import light_nets
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from light_nets import pruned
from safetensors.torch import load_file, save_file

import lwplugin.model as lw
from lwplugin.artifact import digest_directory, digest_file, digest_json
from lwplugin.errors import ModelError

Edit = Callable[[dict[str, Any]], None]
X = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = lw.light(light_nets.net(), lw.FactoryOrigin("light_nets:net", {"width": 8, "blocks": 3}))
    light = base.evolve(pruned(base), lw.HistoryEntry(step="prune", method="taylor", metrics={"macs": 0.5}))
    place = tmp_path_factory.mktemp("valid") / "bundle"
    light.save(place)
    return place


@pytest.fixture
def bundle(valid: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(valid, tmp_path / "bundle"))


def edit(bundle: Path, change: Edit) -> None:
    """Rewrites model.json as an attacker would: with all digests made right again."""
    file = bundle / "model.json"
    data = json.loads(file.read_text())
    data["weights"] = digest_file(bundle / "weights.safetensors")
    data["origin"] = digest_directory(bundle / "origin")
    change(data)
    data.pop("digest", None)
    file.write_text(json.dumps({**data, "digest": digest_json(data)}))


def edit_weights(bundle: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    file = bundle / "weights.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    change(tensors)
    file.unlink()
    save_file(tensors, file)
    edit(bundle, lambda data: None)


def drop(name: str) -> Callable[[dict[str, torch.Tensor]], None]:
    return lambda tensors: tensors.__delitem__(name)


def put(name: str, value: torch.Tensor) -> Callable[[dict[str, torch.Tensor]], None]:
    return lambda tensors: tensors.update({name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("token"), "missing from the file: got token"),
        (drop("blocks.0.up.1.weight"), "missing from the file: got blocks.0.up.1.weight"),
        (put("evil", torch.zeros(3)), "tensors that the model does not have: got evil"),
        (put("token", torch.zeros(1, 1, 9)), "'token' does not fit"),
        (put("head.weight", torch.zeros(8, 4)), "'head.weight' does not fit"),
        (put("token", torch.zeros(1, 1, 8, dtype=torch.int64)), "'token' does not fit"),
        (put("stem.1.num_batches_tracked", torch.tensor(0.0)), "does not fit"),
    ],
)
def test_wrong_tensors(bundle: Path, change: Callable[[dict[str, torch.Tensor]], None], message: str) -> None:
    edit_weights(bundle, change)
    with pytest.raises(ModelError, match=message):
        lw.load(bundle)


def _spec(name: str, **spec: Any) -> Edit:
    return lambda data: data["changes"]["modules"].update({name: {"args": {}, **spec}})


def _linear(**args: Any) -> dict[str, Any]:
    return {"in_features": 8, "out_features": 4, "bias": False, **args}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_spec("head", type="os.system", args={"command": "true"}), "Unknown layer type"),
        (_spec("head", type="Liner", args=_linear()), "did you mean 'Linear'"),
        (_spec("head", type="Linear", args=_linear(in_features="8")), "cannot be built"),
        (_spec("head", type="Linear", args=_linear(out_features=-4)), "cannot be built"),
        (_spec("head", type="Linear", args=_linear(surprise=1)), "cannot be built"),
        (_spec("head", type="Linear", args=_linear(out_features=2**40)), "does not fit"),
        (_spec("head", type="Linear", args=_linear(out_features=2**80)), "cannot be built"),
        (_spec("head", type="Linear", args=[]), "not valid"),
        (_spec("nowhere", type="Identity"), "does not have"),
        (_spec("stem.9", type="Identity"), "does not have"),
        (_spec("head.deeper", type="Identity"), "does not have"),
        (_spec("", type="None"), "Unknown layer type"),
        (_spec("", type="Removed"), "does not have"),
        (_spec("head", type="Shared", args={"name": ""}), "contains itself"),
        (_spec("stem.2", type="Shared", args={"name": "stem"}), "contains itself"),
        (_spec("head", type="Shared", args={"name": "nowhere"}), "does not have"),
        (_spec("head", type="Sequential", args={"children": ["a.b"]}), "cannot be built"),
        (_spec("head", type="Sequential", args={"children": 3}), "cannot be built"),
        (lambda d: d["changes"]["attributes"].update({"heads": [1, 2]}), "no such integer"),
        (lambda d: d["changes"]["attributes"].update({"forward": 1}), "no such integer"),
        (lambda d: d["changes"]["attributes"].update({"__class__": 1}), "no such integer"),
        (lambda d: d["changes"]["attributes"].update({"same.training": 1}), "no such integer"),
        (lambda d: d["changes"]["parameters"].update({"token": [1, 1, 2**62]}), "impossible|does not fit"),
        (lambda d: d["changes"]["parameters"].update({"token": [-1]}), "impossible"),
        (lambda d: d["changes"]["parameters"].update({"nothing": [1]}), "does not have"),
        (lambda d: d["changes"]["parameters"].update({"token": None}), None),
        (lambda d: d.update(schema=2), "unknown schema version"),
        (lambda d: d.update(schema=True), "unknown schema version"),
        (lambda d: d.pop("schema"), "unknown schema version"),
        (lambda d: d.update(surprise=1), "not valid"),
        (lambda d: d.pop("changes"), "not valid"),
        (lambda d: d.update(history=[{"step": "prune", "who": "me"}]), "not valid"),
        (lambda d: d.update(tied={"token": "head.weight"}), "both stored and tied"),
        (lambda d: d.update(tied={"token2": "nowhere"}), "does not have|not stored"),
        (lambda d: d.update(channels_last=["token"]), "channels-last"),
        (lambda d: d.update(weights="0" * 64), "weights have been changed"),
        (lambda d: d.update(origin="0" * 64), "origin has been changed"),
        (lambda d: d.update(origin_integers="0" * 64), "builds another model"),
    ],
)
def test_wrong_record(bundle: Path, change: Edit, message: str | None) -> None:
    edit(bundle, change)
    with pytest.raises(ModelError, match=message):
        lw.load(bundle)


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "3", "{", '{"schema": NaN}', '{"a":' * 100_000, "\x00", "9" * 5000]
)
def test_unreadable_record(bundle: Path, text: str) -> None:
    (bundle / "model.json").write_text(text)
    with pytest.raises(ModelError):
        lw.load(bundle)


def test_record_changed_by_hand_is_noticed(bundle: Path) -> None:
    text = (bundle / "model.json").read_text()
    (bundle / "model.json").write_text(text.replace("taylor", "random"))
    with pytest.raises(ModelError, match=r"model\.json has been changed"):
        lw.load(bundle)


@pytest.mark.parametrize(
    ("origin", "message"),
    [
        ({"kind": "factory", "path": "os:system", "args": {"command": "touch pwned"}}, "not accepted"),
        ({"kind": "factory", "path": "torch:load", "args": {"f": "x"}}, "not accepted"),
        ({"kind": "factory", "path": "torch.hub:load", "args": {}}, "not accepted"),
        ({"kind": "factory", "path": "torch:os.system", "args": {"command": "true"}}, "cannot be imported"),
        ({"kind": "factory", "path": "light_nets:nn.Linear", "args": {}}, "cannot be imported"),
        ({"kind": "factory", "path": "light_nets:nothing", "args": {}}, "cannot be imported"),
        ({"kind": "factory", "path": "light_nets:not_a_module", "args": {}}, "did not return an nn.Module"),
        ({"kind": "factory", "path": "light_nets:net", "args": {"size": 3}}, "failed with arguments"),
        ({"kind": "factory", "path": "light_nets:net", "args": {"width": "8"}}, "failed with arguments"),
        ({"kind": "factory", "path": "light_nets:net", "args": [1]}, "must be a mapping"),
        ({"kind": "factory", "path": "no_such_package:net", "args": {}}, "cannot be imported"),
        ({"kind": "factory", "path": "../evil:net", "args": {}}, "cannot be read"),
        ({"kind": "factory", "path": "light_nets:__class__", "args": {}}, "cannot be read"),
        ({"kind": "factory", "path": 3, "args": {}}, "cannot be read"),
        ({"kind": "mlflow", "flavor": "sklearn"}, "no known kind"),
        ({"kind": "mlflow", "flavor": "pytorch"}, "not an MLflow model directory"),
        ({"kind": "pickle"}, "no known kind"),
        ([], "cannot be read"),
    ],
)
def test_wrong_origin(bundle: Path, origin: Any, message: str) -> None:
    (bundle / "origin" / "origin.json").write_text(json.dumps(origin))
    edit(bundle, lambda data: None)
    with pytest.raises(ModelError, match=message):
        lw.load(bundle)


def test_origin_swapped_without_the_record_is_never_run(bundle: Path) -> None:
    (bundle / "origin" / "origin.json").write_text('{"kind":"factory","path":"light_nets:Net","args":{}}')
    with pytest.raises(ModelError, match="origin has been changed"):
        lw.load(bundle)


def test_links_are_refused(bundle: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.safetensors"
    (bundle / "weights.safetensors").rename(secret)
    (bundle / "weights.safetensors").symlink_to(secret)
    with pytest.raises(ModelError, match="link"):
        lw.load(bundle)


def test_expected_digest_is_checked(bundle: Path) -> None:
    digest = digest_directory(bundle)
    lw.load(bundle, expected_digest=digest)
    (bundle / "extra.txt").write_text("not there before")
    with pytest.raises(ModelError, match="not the expected one"):
        lw.load(bundle, expected_digest=digest)


def test_size_limit(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LWPLUGIN_MAX_MODEL_BYTES", "1000")
    with pytest.raises(ModelError, match="larger than allowed"):
        lw.load(bundle)


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors", "origin/origin.json"])
def test_missing_file(bundle: Path, name: str) -> None:
    os.remove(bundle / name)
    with pytest.raises(ModelError):
        lw.load(bundle)


def test_header_that_declares_more_than_the_file_holds(bundle: Path) -> None:
    header = json.dumps({"token": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    (bundle / "weights.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    edit(bundle, lambda data: None)
    with pytest.raises(ModelError, match="cannot be read"):
        lw.load(bundle)


_SETTINGS = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def loads_the_same_or_says_why(bundle: Path, reference: torch.Tensor) -> None:
    try:
        module = lw.load(bundle).module
    except ModelError:
        return
    with torch.no_grad():
        assert torch.equal(module(X), reference)


@pytest.fixture(scope="module")
def reference(valid: Path) -> torch.Tensor:
    with torch.no_grad():
        return lw.load(valid).module(X)


@_SETTINGS
@given(data=st.data())
def test_flipped_and_truncated_bytes(
    valid: Path, reference: torch.Tensor, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    bundle = Path(shutil.copytree(valid, tmp_path_factory.mktemp("flip") / "bundle"))
    file = bundle / data.draw(st.sampled_from(["model.json", "weights.safetensors", "origin/origin.json"]))
    content = bytearray(file.read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        for _ in range(data.draw(st.integers(1, 3))):
            content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    file.write_bytes(content)
    loads_the_same_or_says_why(bundle, reference)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += _places(inner, (*path, key))
    return found


@_SETTINGS
@given(data=st.data())
def test_mutated_record_with_right_digests(
    valid: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whoever rewrites every digest may describe another model; it still loads whole or not at all."""
    bundle = Path(shutil.copytree(valid, tmp_path_factory.mktemp("json") / "bundle"))

    def mutate(record: dict[str, Any]) -> None:
        path = data.draw(st.sampled_from(_places(copy.deepcopy(record))))
        holder: Any = record
        for key in path[:-1]:
            holder = holder[key]
        how = data.draw(st.sampled_from(["replace", "delete", "near"]))
        if how == "delete":
            del holder[path[-1]]
        elif how == "near" and isinstance(holder[path[-1]], int):
            holder[path[-1]] += data.draw(st.sampled_from([-1, 1, 2**31, 2**63]))
        else:
            holder[path[-1]] = data.draw(_JSON)

    edit(bundle, mutate)
    stored = load_file(bundle / "weights.safetensors")
    try:
        module = lw.load(bundle).module
    except ModelError:
        return
    for name, tensor in module.state_dict(keep_vars=True).items():
        assert name not in stored or torch.equal(tensor, stored[name])
