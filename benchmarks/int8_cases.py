"""The nets of `int8_peers.py`: a float net, its data, what every file is asked, and how answers are judged."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from lwplugin.data import Data, tensors

Feed = dict[str, np.ndarray]
Outputs = dict[str, np.ndarray]

TEMPLATES = (
    "This is news about {}.",
    "An article about {}.",
    "{}",
    "The latest {} news.",
    "Today in {}.",
    "The {} section of the newspaper.",
    "A report from the world of {}.",
    "{} news",
    "This text is about {}.",
    "The topic is {}.",
    "Read more about {}.",
    "A story on {}.",
)
"""Zero-shot accuracy hangs on the words of five prompts, so it is the mean over these."""


@dataclass(frozen=True)
class Case:
    """``questions`` by name are asked of every file in batches of ``batch``; ``judge`` makes a row's columns of the
    answers and the float file's. ``options`` go to our `int8`."""

    net: nn.Module
    data: Data
    questions: dict[str, Feed]
    judge: Callable[[Outputs, Outputs], dict[str, str]]
    calibration: int
    batch: int
    options: dict[str, Any] = field(default_factory=dict)

    def batches(self, size: int) -> list[Feed]:
        """The calibration inputs as our methods see them (half of the texts cut short), for others' tools."""
        split = self.data.to_fit().head(self.calibration)
        return [
            {name: tensor.numpy() for name, tensor in tensors(batch.inputs).items()}
            for batch in split.batches(size)
        ]


def _images(array: np.ndarray, data: Data) -> Feed:
    (name,) = tensors(data.example(1))
    return {name: array}


def resnet20(options: argparse.Namespace) -> Case:
    """Fashion-MNIST: 512 images calibrate, 10,000 judge."""
    from fashion import network, pictures

    data = pictures(None, None)
    test = next(data.need("test").batches(10_000))
    labels = np.asarray(test.targets)

    def judge(got: Outputs, wanted: Outputs) -> dict[str, str]:
        answers, meant = got["test"].argmax(1), wanted["test"].argmax(1)
        return {
            "accuracy": f"{(answers == labels).mean():.2%}",
            "same answer": f"{(answers == meant).mean():.2%}",
        }

    given = argparse.Namespace(weights=options.weights, net="resnet20", epochs=4, data=None, n_train=None)
    asked = {name: tensor.numpy() for name, tensor in tensors(test.inputs).items()}
    return Case(network(given, 0), data, {"test": asked}, judge, calibration=512, batch=250)


def lite0(options: argparse.Namespace) -> Case:
    """128 photo crops calibrate, 200 judge by whether the float net's answer stays."""
    from real_models import lite0 as net
    from real_models import photo_crops

    data, test = photo_crops(distinct=options.distinct)

    def judge(got: Outputs, wanted: Outputs) -> dict[str, str]:
        return {"same answer": f"{(got['test'].argmax(1) == wanted['test'].argmax(1)).mean():.1%}"}

    return Case(net(), data, {"test": _images(test, data)}, judge, calibration=128, batch=20)


def judged_vectors(labels: np.ndarray, got: Outputs, wanted: Outputs, *, skip: int = 0) -> dict[str, str]:
    """Columns of a row about sentence vectors; the cosine with float's leaves out the first ``skip`` articles."""
    from real_models import CLASSES, judged

    anchors = got["prompts"].reshape(len(TEMPLATES), len(CLASSES), -1)
    cosine = (got["test"] * wanted["test"])[skip:].sum(1).mean()
    shares = {name: f"{share:.2%}" for name, share in judged(got["test"], labels, anchors).items()}
    return {**shares, "cosine": f"{cosine:.4f}"}


def minilm(options: argparse.Namespace) -> Case:
    """BBC News, one article at a time: a range taken at run time is that of the batch."""
    from real_models import CLASSES, Sentences, bbc, tokenized

    data, arrays, labels = bbc()
    prompts = tokenized([template.format(name) for template in TEMPLATES for name in CLASSES])

    chosen = {"examples": 128, "batch_size": 32}
    return Case(
        Sentences().eval(),
        data,
        {"test": arrays, "prompts": prompts},
        partial(judged_vectors, labels),
        calibration=128,
        batch=1,
        options=chosen,
    )


CASES: dict[str, Callable[[argparse.Namespace], Case]] = {
    "resnet20": resnet20,
    "lite0": lite0,
    "minilm": minilm,
}
