"""Students built by name: the published nets at width 1, and any width between."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lwplugin
from lwplugin.data import from_arrays
from lwplugin.data.batch import Inputs, call, map_inputs
from lwplugin.errors import ModelError, RecipeError
from lwplugin.model.graph import trace
from lwplugin.model.oracle import moved_by, trial
from lwplugin.students import FAMILIES, build, options_of
from lwplugin.students.budget import STEPS_PER_WIDTH, costs, fitted

IMAGES = {"channels": 1, "classes": 10, "stem": "small"}
SMALL: dict[str, dict[str, Any]] = {
    "mobilenet_v1": IMAGES,
    "mobilenet_v2": IMAGES,
    "squeezenet": IMAGES,
    "shufflenet_v1": {**IMAGES, "groups": 2},
    "shufflenet_v2": IMAGES,
    "transformer": {"vocabulary": 50, "classes": 5, "layers": 2, "positions": 16, "embedding": 24},
    "recurrent": {"features": 12, "classes": 5, "cell": "lstm"},
}
EACH = pytest.mark.parametrize("family", FAMILIES)


def inputs_of(family: str, n: int = 2) -> Inputs:
    generator = torch.Generator().manual_seed(3)
    if family == "transformer":
        ids = torch.randint(1, 50, (n, 9), generator=generator)
        mask = (torch.arange(9) < torch.tensor([9, 6] * n)[:n, None]).long()
        return {"input_ids": ids * mask, "attention_mask": mask}
    if family == "recurrent":
        return torch.randn(n, 9, 12, generator=generator)
    return torch.randn(n, 1, 16, 16, generator=generator)


def student(family: str, width: float = 0.25) -> nn.Module:
    torch.manual_seed(0)
    net = build(family, width=width, **SMALL[family]).eval()
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.3, 0.3)
            layer.running_var.uniform_(0.5, 2)
    return net


@pytest.mark.parametrize(
    ("family", "options", "params"),
    [
        ("mobilenet_v1", {}, 4_231_976),
        ("mobilenet_v2", {}, 3_504_872),
        ("squeezenet", {}, 1_235_496),
        ("squeezenet", {"version": "1.0"}, 1_248_424),
        ("shufflenet_v1", {"groups": 1}, 1_531_936),
        ("shufflenet_v1", {"groups": 2}, 1_733_848),
        ("shufflenet_v1", {}, 1_865_728),
        ("shufflenet_v1", {"groups": 4}, 1_968_344),
        ("shufflenet_v1", {"groups": 8}, 2_434_768),
        ("shufflenet_v2", {"width": 0.5}, 1_366_792),
        ("shufflenet_v2", {}, 2_278_604),
        ("shufflenet_v2", {"width": 1.5}, 3_503_624),
        ("shufflenet_v2", {"width": 2}, 7_393_996),
    ],
)
def test_the_published_nets_have_their_published_parameters(
    family: str, options: dict[str, Any], params: int
) -> None:
    with torch.device("meta"):
        net = build(family, **options)
    assert sum(parameter.numel() for parameter in net.parameters()) == params


@pytest.mark.parametrize(
    ("family", "megamacs"),
    [("mobilenet_v1", 569), ("mobilenet_v2", 300), ("shufflenet_v1", 140), ("shufflenet_v2", 146)],
)
def test_the_published_nets_cost_their_published_macs(family: str, megamacs: float) -> None:
    images = torch.zeros(1, 3, 224, 224)
    found = costs(FAMILIES[family], FAMILIES[family].options(family=family), images)
    assert found["macs"] == pytest.approx(megamacs * 1e6, rel=0.05)


@EACH
def test_one_answer_an_example_that_padding_does_not_move(family: str) -> None:
    net, inputs = student(family), inputs_of(family)
    with torch.no_grad():
        answers = call(net, inputs)
    assert answers.shape == (2, SMALL[family]["classes"])
    if isinstance(inputs, dict):
        longer = map_inputs(inputs, lambda t: torch.nn.functional.pad(t, (0, 4)))
        with torch.no_grad():
            torch.testing.assert_close(call(net, longer), answers)


@EACH
def test_the_dependency_graph_carries_it(family: str) -> None:
    net, inputs = student(family), inputs_of(family)
    graph = trace(net, inputs)
    assert graph.groups
    for group in graph.groups:
        assert moved_by(net, inputs, graph, {group.index: trial(group)}) is None
    assert moved_by(net, inputs, graph, {g.index: trial(g) for g in graph.groups}) is None


@EACH
def test_costs_do_not_fall_with_the_width_and_are_those_of_the_real_net(family: str) -> None:
    chosen, inputs = FAMILIES[family], inputs_of(family)

    def at(step: int, *names: str) -> dict[str, int]:
        options = chosen.options(family=family, width=step / STEPS_PER_WIDTH, **SMALL[family])
        return costs(chosen, options, inputs, names)

    sizes = [at(step, "params", "size_bytes") for step in range(1, 130, 3)]
    macs = [at(step, "macs") for step in (4, 8, 9, 23, 64)]
    for found in (sizes, macs):
        assert all(one[name] <= other[name] for one, other in pairwise(found) for name in one)
        assert found[0] != found[-1]
    real = lwplugin.light(student(family, 0.25)).cost(inputs)
    assert at(16, "params", "macs", "size_bytes") == {
        n: getattr(real, n) for n in ("params", "macs", "size_bytes")
    }


@pytest.mark.slow
@pytest.mark.parametrize("family", ["squeezenet", "shufflenet_v2", "transformer", "recurrent"])
def test_exports_with_parity_and_reloads(family: str, tmp_path: Path) -> None:
    net, inputs = student(family), inputs_of(family, 16)
    data = from_arrays(calibration=(inputs, None), task="classification", duplicates="ignore")
    origin = lwplugin.FactoryOrigin(
        "lwplugin.students:build", {"family": family, "width": 0.25, **SMALL[family]}
    )
    light = lwplugin.light(net, origin=origin)
    light.save(tmp_path / "bundle")
    with torch.no_grad():
        assert torch.equal(call(lwplugin.load(tmp_path / "bundle").module, inputs), call(net, inputs))
    assert lwplugin.export(light, data, format="onnx", path=tmp_path / "onnx").file.is_file()


@pytest.mark.parametrize("limit", ["params", "macs", "size_bytes"])
def test_a_budget_is_met_by_the_widest_that_does(limit: str) -> None:
    chosen, inputs = FAMILIES["mobilenet_v2"], inputs_of("mobilenet_v2")
    options = chosen.options(family="mobilenet_v2", **IMAGES)

    def at(width: float) -> int:
        return costs(chosen, options.model_copy(update={"width": width}), inputs, [limit])[limit]

    most = at(0.3)
    found = fitted(chosen, options, inputs, {limit: most})
    assert found.width is not None
    assert at(found.width) == most < at(found.width + 1 / STEPS_PER_WIDTH)
    with pytest.raises(ModelError, match=r"is that small: got .* 10 allowed"):
        fitted(chosen, options, inputs, {limit: 10})


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match="did you mean 'mobilenet_v2'"):
        build("mobilnet_v2")
    with pytest.raises(RecipeError, match="did you mean 'width'"):
        build("squeezenet", widht=0.5)


def test_options_say_how_to_build_the_same_again() -> None:
    options = FAMILIES["squeezenet"].options(family="squeezenet", width=0.25, **IMAGES)
    assert options_of(options).items() >= {"family": "squeezenet", "width": 0.25, "stem": "small"}.items()
    assert (
        build(**options_of(options)).state_dict().keys() == build("squeezenet", **IMAGES).state_dict().keys()
    )
