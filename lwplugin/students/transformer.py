"""A small transformer encoder for token ids, norms before the layers (2002.04745)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lwplugin.errors import ModelError
from lwplugin.students.convolution import channels
from lwplugin.students.options import Family, StudentOptions

if TYPE_CHECKING:
    from lwplugin.data import Inputs

_HEAD = 32


class TransformerOptions(StudentOptions):
    """Options of `transformer`."""

    family: Literal["transformer"] = "transformer"
    layers: int = Field(3, ge=1, description="Encoder blocks.")
    vocabulary: int | None = Field(None, ge=2, description="Token ids; the teacher's, else 30522 (BERT's).")
    embedding: int | None = Field(
        None,
        ge=8,
        description="Width of the token embeddings, projected to the blocks' (ALBERT, 1909.11942), as they "
        "hold most of a small student; left out: the blocks' own width.",
    )
    positions: int = Field(512, ge=1, description="Longest sequence it can take, tokens.")
    pooling: Literal["mean", "none"] | None = Field(
        None,
        description="mean: one answer from all tokens. none: one each. As the teacher answers, else mean.",
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="In training, after attention and feed-forward.")

    def suited(self, inputs: Inputs, outputs: Tensor, teacher: nn.Module | None) -> Self:
        first = inputs.get("input_ids") if isinstance(inputs, dict) else inputs
        first = first[0] if isinstance(first, tuple) else first
        known = {"input_ids", "attention_mask"}
        if first is None or first.ndim != 2 or first.is_floating_point():
            raise self._wrong_inputs("token ids [n, tokens]", inputs)
        if isinstance(inputs, dict) and set(inputs) - known:
            raise self._wrong_inputs("input_ids and attention_mask alone", inputs)
        vocabulary = self.vocabulary or _vocabulary(teacher)
        if vocabulary is None:
            raise ModelError(
                "The size of the student's vocabulary is not known",
                got="a teacher without an embedding of tokens",
                do="set student.vocabulary to the tokenizer's size",
            )
        pooling = "none" if outputs.ndim == 3 else "mean"
        return self._filled(classes=outputs.shape[-1], vocabulary=vocabulary, pooling=pooling)


def _vocabulary(teacher: nn.Module | None) -> int | None:
    found = [m.num_embeddings for m in teacher.modules() if isinstance(m, nn.Embedding)] if teacher else []
    return max(found, default=None)


class Block(nn.Module):
    """Self-attention, then feed-forward, each added to its input."""

    def __init__(self, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.qkv, self.out = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.up, self.down = nn.Linear(hidden, 4 * hidden), nn.Linear(4 * hidden, hidden)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """[n, tokens, hidden], mask bool [n, 1, 1, tokens] → [n, tokens, hidden]."""
        n, tokens, _ = x.shape
        mixed = self.qkv(self.norm1(x)).view(n, tokens, 3, self.heads, -1)
        query, key, value = mixed.permute(2, 0, 3, 1, 4).unbind(0)
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = x + self.drop(self.out(seen.transpose(1, 2).reshape(n, tokens, -1)))
        return x + self.drop(self.down(F.gelu(self.up(self.norm2(x)))))


class TextTransformer(nn.Module):
    """Token ids [n, tokens] and their mask [n, tokens] → [n, classes], or [n, tokens, classes] unpooled."""

    def __init__(self, options: TransformerOptions) -> None:
        super().__init__()
        hidden = channels(256 * (options.width or 1.0), _HEAD)
        wide = options.embedding or hidden
        self.tokens = nn.Embedding(options.vocabulary or 30522, wide)
        self.project = nn.Linear(wide, hidden) if wide != hidden else nn.Identity()
        self.positions = nn.Embedding(options.positions, hidden)
        self.blocks = nn.ModuleList(
            [Block(hidden, hidden // _HEAD, options.dropout) for _ in range(options.layers)]
        )
        self.norm = nn.LayerNorm(hidden)
        self.head = nn.Linear(hidden, options.classes or 1000)
        self.pooled = options.pooling != "none"
        for layer in self.modules():
            if isinstance(layer, nn.Embedding):
                nn.init.normal_(layer.weight, 0, 0.02)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Padding, where the mask is 0, is neither looked at nor averaged."""
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.project(self.tokens(input_ids)) + self.positions(places)
        mask = None if attention_mask is None else attention_mask[:, None, None, :] > 0
        for block in self.blocks:
            x = block(x, mask)
        x = self.norm(x)
        if not self.pooled:
            return self.head(x)
        if attention_mask is None:
            return self.head(x.mean(1))
        weight = attention_mask.unsqueeze(-1).to(x.dtype)
        return self.head((x * weight).sum(1) / weight.sum(1).clamp_min(1))


def make(options: Any) -> nn.Module:
    """256 wide at width 1, in heads of 32."""
    return TextTransformer(options)


FAMILY = Family("transformer", TransformerOptions, make, "a small encoder (token ids)")
