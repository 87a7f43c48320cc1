"""Models as people have them: what is unwrapped, made plain or refused when a light model is made of one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import light_nets
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune as masks

import lwplugin
from lwplugin.errors import MethodError, ModelError
from lwplugin.model.batch_statistics import ModelWarning
from lwplugin.model.origin import MlflowOrigin
from lwplugin.model.trace import tensors_of

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.normal(size=(96, 3, 8, 8)).astype("float32")
DATA = lwplugin.data.from_arrays(train=(IMAGES, RANDOM.integers(0, 4, 96)))
EXAMPLES = torch.from_numpy(IMAGES[:16])


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()


def answers(module: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = module.eval()(EXAMPLES)
    return found


def masked() -> nn.Module:
    net = plain()
    masks.l1_unstructured(net[0], "weight", 0.5)
    return net


def old_weight_norm() -> nn.Module:
    net = plain()
    nn.utils.weight_norm(net[0])
    return net


@pytest.mark.parametrize("make", [light_nets.Normed, masked, old_weight_norm])
def test_computed_weights_become_plain_and_the_bundle_loads(
    make: Callable[[], nn.Module], tmp_path: Path
) -> None:
    net = make().eval()
    wanted = answers(net)
    light = lwplugin.light(net)
    assert torch.equal(answers(light.module), wanted)
    assert {name.rpartition(".")[2] for name, _ in light.module.named_parameters()} == {"weight", "bias"}
    small = lwplugin.prune(net, DATA, macs=0.7, collapse=0)
    small.save(tmp_path / "bundle")
    assert torch.equal(answers(lwplugin.load(tmp_path / "bundle").module), answers(small.module))
    assert torch.equal(answers(net), wanted)  # the caller's own still computes its weights
    copy.deepcopy(plain())


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
def test_what_only_says_how_a_model_runs_is_taken_off(wrap: Callable[[nn.Module], nn.Module]) -> None:
    light = lwplugin.light(wrap(plain()))
    assert type(light.module) is nn.Sequential
    assert torch.equal(answers(light.module), answers(plain()))


def test_a_layer_with_a_hook_keeps_it_and_a_hook_from_outside_is_not_saved(tmp_path: Path) -> None:
    net = plain()
    net[2].register_forward_hook(lambda layer, inputs, output: 2 * output)
    half = lwplugin.quantize(net, DATA, method="half")
    torch.testing.assert_close(answers(half.module), answers(net), rtol=0.01, atol=0.01)
    low = lwplugin.factorize(net, DATA, params=0.9, collapse=0)
    assert "hooks on it would be lost" in str(low.history[0].details["left_alone"])
    with pytest.raises(ModelError, match="cannot be saved"):
        low.save(tmp_path / "bundle")


def test_a_hook_that_the_named_origin_does_not_make_is_refused() -> None:
    net = light_nets.Normed()
    net.head.register_forward_hook(lambda *_: None)
    with pytest.raises(
        ModelError, match="Hooks were hung on the model that its origin does not make: got 1 on 'head'"
    ):
        lwplugin.light(net, origin=lwplugin.FactoryOrigin("light_nets:Normed"))


def test_norms_without_running_statistics_are_told_where_a_model_is_taken_in(
    recwarn: pytest.WarningsRecorder,
) -> None:
    net = plain()
    net.insert(1, nn.BatchNorm2d(8))
    net.insert(2, nn.InstanceNorm2d(8))
    lwplugin.light(net)
    assert not recwarn
    net[1] = nn.BatchNorm2d(8, track_running_stats=False)
    with pytest.warns(
        ModelWarning, match=r"'1' normalises by the statistics of each batch.*GroupNorm"
    ) as told:
        lwplugin.light(net)
    assert told[0].filename == __file__


def sparse() -> nn.Module:
    net = plain()
    net.register_buffer("table", torch.eye(4).to_sparse())
    return net


def quantized_by_torch() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(plain(), {nn.Linear})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: plain().to("meta"), "no numbers, only shapes: got '0.weight' on the meta device"),
        (
            quantized_by_torch,
            r"quantized by torch already.*'6', a torch\.ao\.nn\.quantized\.dynamic.*Do: begin with",
        ),
        (sparse, "'table' cannot be stored: got .*sparse_coo"),
        (lambda: torch.jit.script(plain()), "layers can be changed: got RecursiveScriptModule"),
        (lambda: nn.Sequential(nn.LazyLinear(4)), "'0.weight' has no shape yet"),
    ],
)
def test_models_that_cannot_be_changed_are_refused_at_once(
    make: Callable[[], nn.Module], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        lwplugin.light(make())


@pytest.mark.parametrize(
    "run",
    [
        lambda net: lwplugin.prune(net, DATA, macs=0.5),
        lambda net: lwplugin.factorize(net, DATA, params=0.5),
        lambda net: lwplugin.quantize(net, DATA),
        lambda net: lwplugin.distill(net, DATA, teacher=plain(), epochs=1),
        lambda net: lwplugin.distill(plain(), DATA, teacher=net, epochs=1),
    ],
)
def test_a_forward_that_does_not_take_the_examples_is_named_with_the_way_out(
    run: Callable[[nn.Module], object],
) -> None:
    with pytest.raises(
        ModelError, match=r"\(input float32 \[\d, 3, 8, 8\]\): got RuntimeError: .*model\.float\(\)"
    ):
        run(plain().half())


@dataclass
class Answer:
    logits: torch.Tensor
    hidden: torch.Tensor


class Answering(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = plain()

    def forward(self, x: torch.Tensor) -> Answer:
        return Answer(self.net(x), x)


def test_a_dataclass_is_an_output_like_a_dict() -> None:
    net = Answering().eval()
    assert len(tensors_of({"found": net(EXAMPLES)})) == 2
    assert torch.equal(DATA.task.outputs(net(EXAMPLES)), answers(net.net))
    before, after = lwplugin.light(net), lwplugin.prune(net, DATA, macs=0.7, collapse=0)
    assert after.cost(EXAMPLES).macs < 0.71 * before.cost(EXAMPLES).macs


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = plain()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.net(x.mul_(2))
        return out


def test_a_model_that_writes_into_its_inputs_is_compressed_like_any_other() -> None:
    assert "prune" in repr(lwplugin.prune(InPlace(), DATA, macs=0.7, collapse=0))


def test_a_model_of_transformers_that_has_run_before_is_taken_in() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = {"vocab_size": 40, "max_position_embeddings": 16, **sizes}
    net = transformers.BertModel(transformers.BertConfig(**config)).eval()
    with torch.no_grad():
        net(
            torch.ones(1, 3, dtype=torch.long), output_hidden_states=True
        )  # hangs hooks on its blocks that record
    assert any(part._forward_hooks for part in net.modules())
    origin = lwplugin.FactoryOrigin("light_nets:bert", config)
    assert lwplugin.light(net, origin=origin).changes.modules == {}
    net.encoder.register_forward_hook(lambda *_: None)
    with pytest.raises(ModelError, match=r"Hooks were hung .*1 on 'encoder'"):
        lwplugin.light(net, origin=origin)


def test_a_scripted_part_is_named() -> None:
    net = nn.Sequential(nn.Linear(4, 4), torch.jit.script(nn.Sequential(nn.ReLU())))
    with pytest.raises(ModelError, match=r"TorchScript.*got '1'"):
        lwplugin.light(net)


def test_pruning_with_every_layer_skipped_says_so() -> None:
    with pytest.raises(MethodError, match="No layer is left to prune: got 2 groups of units"):
        lwplugin.prune(plain(), DATA, macs=0.7, skip=["*"])


def test_a_registered_model_in_bfloat16_is_compressed_in_float32(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(vocab_size=40, max_position_embeddings=16, **sizes)
    transformers.BertModel(config).bfloat16().save_pretrained(tmp_path / "registered" / "model")
    flavor = "flavors: {transformers: {model_binary: model, pipeline_model_type: BertModel}}"
    (tmp_path / "registered" / "MLmodel").write_text(flavor, encoding="utf-8")
    origin = MlflowOrigin.detect(tmp_path / "registered")
    ids = RANDOM.integers(1, 40, (24, 8))
    words = lwplugin.data.from_arrays(calibration={"input_ids": ids}, task={"name": "embedding"})
    light = lwplugin.quantize(lwplugin.light(origin.build(), origin), words, method="weight_only")
    light.save(tmp_path / "bundle")
    again = lwplugin.load(tmp_path / "bundle").module
    assert {tensor.dtype for tensor in again.parameters() if tensor.is_floating_point()} == {torch.float32}
