"""Hugging Face's own BERT, very small, and sequences of token ids for it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lwplugin.data import Data, from_arrays


class Bert(nn.Module):
    """Token ids → logits [n, 4], by Hugging Face's own encoder."""

    def __init__(self, layers: int, width: int, attention: str) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        config = BertConfig(
            vocab_size=40, hidden_size=width, num_hidden_layers=layers, num_attention_heads=2,
            intermediate_size=2 * width, max_position_embeddings=12, attn_implementation=attention,
        )  # fmt: skip
        self.bert = BertModel(config, add_pooling_layer=False)
        self.head = nn.Linear(width, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return self.head(hidden[:, 0])


def bert(layers: int, width: int, attention: str = "eager") -> Bert:
    torch.manual_seed(layers)
    return Bert(layers, width, attention).eval()


def sequences() -> Data:
    """256 of 3 to 8 tokens, padded to 8."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 40, (256, 8), generator=generator)
    mask = (torch.arange(8) < torch.randint(3, 9, (256, 1), generator=generator)).long()
    inputs = {"input_ids": ids * mask, "attention_mask": mask}
    return from_arrays(
        train=(inputs, None), task="classification", duplicates="ignore", calibration_examples=64
    )
