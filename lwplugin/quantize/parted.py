"""An embedding table in two parts, so that rows read often and rows read seldom may be stored at different widths."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lwplugin.model.layers import register_layer


class PartedEmbedding(nn.Module):
    """Looks rows up in ``frequent`` or in ``rare``, embeddings of their own that any packing may replace.

    ``place`` [num_embeddings] says where each row lies: first the frequent ones, then the rare ones.
    """

    def __init__(
        self, num_embeddings: int, embedding_dim: int, frequent_rows: int, padding_idx: int | None = None
    ) -> None:
        super().__init__()
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.frequent_rows = frequent_rows
        self.padding_idx = padding_idx
        narrow = num_embeddings <= torch.iinfo(torch.int16).max
        self.place: Tensor
        self.register_buffer(
            "place", torch.arange(num_embeddings, dtype=torch.int16 if narrow else torch.int32)
        )
        self.frequent: Any = nn.Embedding(frequent_rows, embedding_dim)
        self.rare: Any = nn.Embedding(num_embeddings - frequent_rows, embedding_dim)

    @property
    def weight(self) -> Tensor:
        """The whole table [num_embeddings, embedding_dim], rows in their usual order."""
        return torch.cat([self.frequent.weight, self.rare.weight])[self.place.long()]

    def args(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {
            "num_embeddings": self.num_embeddings,
            "embedding_dim": self.embedding_dim,
            "frequent_rows": self.frequent_rows,
            "padding_idx": self.padding_idx,
        }

    def forward(self, indices: Tensor) -> Tensor:
        """Integers of any shape → […, embedding_dim]."""
        place = self.place[indices].long()
        often = self.frequent(place.clamp(max=self.frequent_rows - 1))
        seldom = self.rare((place - self.frequent_rows).clamp(min=0))
        return torch.where((place < self.frequent_rows).unsqueeze(-1), often, seldom)

    def extra_repr(self) -> str:
        """Shape, and how many rows are frequent."""
        return f"{self.num_embeddings}, {self.embedding_dim}, frequent_rows={self.frequent_rows}"


@torch.no_grad()
def parted(table: nn.Embedding, frequent: Tensor) -> PartedEmbedding:
    """The table in two parts; ``frequent`` bool [num_embeddings] is true for some rows and not for all."""
    made = PartedEmbedding(
        table.num_embeddings, table.embedding_dim, int(frequent.sum()), table.padding_idx
    ).to(table.weight.device, table.weight.dtype)
    order = torch.cat([frequent.nonzero().flatten(), (~frequent).nonzero().flatten()])
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    made.place.copy_(place)
    made.frequent.weight.copy_(table.weight[frequent])
    made.rare.weight.copy_(table.weight[~frequent])
    return made.train(table.training)


register_layer(PartedEmbedding, lambda layer: layer.args())
