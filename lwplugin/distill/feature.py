"""Features: layers inside follow the teacher's (hints, 1412.6550; TinyBERT, 1909.10351) or are active where its are
(attention transfer, 1612.03928)."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lwplugin.data.batch import Batch, call
from lwplugin.data.padding import attention_mask, mask_over
from lwplugin.distill.attention_matrices import attending, attentive, matrices_distance
from lwplugin.distill.base import Lesson, Method
from lwplugin.distill.config import SoftConfig
from lwplugin.distill.guided import Guided
from lwplugin.distill.matching import Shapes, chosen, ends, features, match, resolution
from lwplugin.distill.soft import answers_loss
from lwplugin.errors import MethodError
from lwplugin.model.watching import main_output, watching
from lwplugin.training.randomness import own_randomness
from lwplugin.training.result import TrainResult


class FeatureConfig(SoftConfig):
    """Options of `feature`."""

    kind: Literal["hint", "attention"] = Field(
        "attention",
        description="attention: where a layer is active, whatever its width. hint: the teacher's values, "
        "through a learned projection where the widths differ.",
    )
    attention_matrices: bool = Field(
        False,
        description="The paired blocks of transformers follow the teacher's attention scores too; with kind: hint, "
        "all of TinyBERT's loss.",
    )
    weight: float = Field(1.0, gt=0, description="Weight of the layers' distance beside the answers' loss.")
    pairs: dict[str, str] = Field(
        default_factory=dict,
        description="Student's layer → teacher's, dotted names; found by name and resolution where empty.",
    )


def teach(lesson: Lesson) -> tuple[TrainResult, dict[str, Any]]:
    """Train on answers and on what happens inside.

    Raises MethodError where no layers match, or none attend and attention matrices are asked for.
    """
    return follow(lesson)


def follow(lesson: Lesson, *, anywhere: bool = False) -> tuple[TrainResult, dict[str, Any]]:
    """The one way layers are followed; ``anywhere`` pairs layers of different resolutions by their means."""
    config, teacher = lesson.config, lesson.teacher.module
    mine = features(lesson.student, lesson.data.example(2))
    theirs = features(teacher, lesson.teacher.seen.example(2))
    if config.pairs:
        pairs = chosen(config.pairs, mine, theirs, anywhere=anywhere)
    else:
        pairs = match(mine, theirs) or (ends(mine, theirs) if anywhere else {})
    if not pairs and not anywhere:
        raise MethodError(
            "No layers of student and teacher match",
            got=f"the student's {list(mine)[:5]}, the teacher's {list(theirs)[:5]}",
            do="name them with pairs: {student's layer: teacher's layer}, or use method 'soft'",
        )
    pooled = {name: resolution(mine[name]) != resolution(theirs[of]) for name, of in pairs.items()}
    guided = Guided(lesson.student, _projections(pairs, pooled, mine, theirs, config))
    blocks = _attending(pairs, mine, theirs, lesson) if config.attention_matrices else {}
    measure = _attention if config.kind == "attention" and not any(pooled.values()) else hint

    def loss(module: nn.Module, batch: Batch) -> Tensor:
        given: dict[str, Tensor] = {}
        wanted: dict[str, Tensor] = {}
        with ExitStack() as watched:
            watched.enter_context(watching(lesson.student, pairs, _into(given)))
            looks = watched.enter_context(attending(lesson.student, {name: mine[name] for name in blocks}))
            outputs = lesson.outputs(module, batch)
        with ExitStack() as watched, torch.no_grad():
            watched.enter_context(watching(teacher, set(pairs.values()), _into(wanted)))
            shown = watched.enter_context(attending(teacher, {of: theirs[of] for of in blocks.values()}))
            seen = lesson.teacher.inputs(batch, of_training=lesson.student.training)
            answers = lesson.data.task.outputs(call(teacher, seen)).float().to(outputs.device)
        followed = answers_loss(lesson, outputs, batch, answers)
        if not pairs:
            return followed
        apart = []
        for name, of in pairs.items():
            one, other = given[name], wanted[of].float()
            if pooled[name]:
                one, other = means(one), means(other)
            one = guided.adapted(name, one).float()
            if (real := real_tokens(batch, one)) is not None:
                one, other = one * real, other * real
            apart.append(measure(one, other))
        inside = torch.stack(apart).mean()
        if blocks:
            real = real_tokens(batch, given[next(iter(blocks))])
            matrices = [matrices_distance(looks[name], shown[of], real) for name, of in blocks.items()]
            inside = inside + torch.stack(matrices).mean()
        return followed + config.weight * inside

    details = {"pairs": pairs, **({"attention_matrices": list(blocks)} if blocks else {})}
    return lesson.learn(loss, around=guided), details


def _attending(pairs: dict[str, str], mine: Shapes, theirs: Shapes, lesson: Lesson) -> dict[str, str]:
    """The pairs of which both attend, over the same tokens."""
    same = {name: of for name, of in pairs.items() if resolution(mine[name]) == resolution(theirs[of])}
    ours = attentive(lesson.student, same, mine, lesson.data.example(2))
    others = attentive(lesson.teacher.module, set(same.values()), theirs, lesson.teacher.seen.example(2))
    found = {name: of for name, of in same.items() if name in ours and of in others}
    if not found:
        raise MethodError(
            "No pair of layers has attention matrices",
            got=f"the pairs {pairs}, of which {list(ours)} and {list(others)} attend over their tokens",
            do="pair blocks of transformers, or leave attention_matrices out",
        )
    return found


def _into(kept: dict[str, Tensor]) -> Any:
    return lambda name, _, output: kept.__setitem__(name, main_output(output))


def _attention(given: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared distance of attention maps of length 1: from 0 to 2."""
    return (attention_map(given) - attention_map(wanted)).square().sum(1).mean()


def attention_map(values: Tensor) -> Tensor:
    """[n, c, h, w] → [n, h·w], [n, tokens, c] → [n, tokens]: mean square over channels, of length 1."""
    channels = 1 if values.ndim == 4 else 2
    return F.normalize(values.square().mean(channels).flatten(1), dim=1, eps=1e-12)


def hint(given: Tensor, wanted: Tensor) -> Tensor:
    """Squared error relative to the teacher's own values."""
    return (given - wanted).square().mean() / wanted.square().mean().clamp_min(1e-12)


def real_tokens(batch: Batch, values: Tensor) -> Tensor | None:
    """[n, tokens, 1], 0 where a sequence of token ids was padded; None where nothing says so."""
    mask = mask_over(values, attention_mask(batch.inputs))
    return None if mask is None else mask.unsqueeze(-1).to(values)


def means(values: Tensor) -> Tensor:
    """[n, c, h, w] or [n, tokens, c] → [n, c], the mean over all positions."""
    return values.flatten(2).mean(2) if values.ndim == 4 else values.mean(1)


def _projections(
    pairs: dict[str, str], pooled: dict[str, bool], mine: Shapes, theirs: Shapes, config: FeatureConfig
) -> dict[str, nn.Module]:
    """A linear map of the channels for every pair of different widths; none for attention maps."""
    if config.kind == "attention" and not any(pooled.values()):
        return {}
    made: dict[str, nn.Module] = {}
    with own_randomness(config.seed, torch.device("cpu")):
        for name, of in pairs.items():
            maps = len(mine[name]) == 4 and not pooled[name]
            width, wide = (shape[1 if len(shape) == 4 else 2] for shape in (mine[name], theirs[of]))
            if width != wide:
                made[name] = nn.Conv2d(width, wide, 1) if maps else nn.Linear(width, wide)
    return made


METHOD = Method("feature", FeatureConfig, teach, "layers inside: hints or attention transfer")
