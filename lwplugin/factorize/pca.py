"""Principal components of a layer's responses (Zhang 2015, 1411.4229): compute r of them, then mix them back.

Without the paper's treatment of the activation that follows. Up to the ridge, the components of the responses W x are
the left singular vectors of W C^½: exact ``pca`` and data-aware ``svd`` find the same product. What differs is that
here no covariance of the inputs is needed to rank, and that ``incremental`` reads all examples in little memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from lwplugin.factorize.base import FactorizeConfig, Method
from lwplugin.factorize.forms import Factors, Form, FormName
from lwplugin.factorize.lowrank import Loss, tails
from lwplugin.factorize.sequence import Seen
from lwplugin.factorize.svd import folded


class PcaConfig(FactorizeConfig):
    """Options of ``pca``."""

    solver: Literal["exact", "incremental"] = Field(
        "exact",
        description="Components of the covariance, or incremental over blocks of rows (scikit-learn).",
    )

    @model_validator(mode="after")
    def _looks(self) -> PcaConfig:
        if not self.data_aware:
            raise ValueError("pca is of responses to data; use svd for data_aware: false")
        return self


def forms(layer: nn.Module, config: PcaConfig) -> Sequence[FormName] | str:
    """The channel form: responses are per output channel."""
    if isinstance(layer, nn.Embedding):
        return "its responses are its own rows: use svd"
    return ["channel"]


def split(kernel: Tensor, form: Form, seen: Seen | None, config: PcaConfig) -> Factors:
    """The leading components of the wanted responses, and the kernel projected on them."""
    assert seen is not None
    components, strength = _components(seen, config, form.ranks[0])
    return folded(kernel, form, components, components.T @ kernel.flatten(1), strength)


def errors(kernel: Tensor, offered: Sequence[Form], seen: Seen | None, config: PcaConfig) -> list[Loss]:
    """The variance of the responses that the components leave out."""
    assert seen is not None
    values, vectors = torch.linalg.eigh(seen.responses)
    at = tails(vectors.flip(1), values.flip(0).clamp_min(0).sqrt(), seen.sensitivity)
    return [at[form.ranks[0]] for form in offered]


def _components(seen: Seen, config: PcaConfig, rank: int) -> tuple[Tensor, Tensor]:
    """[o, r] orthonormal, and their standard deviations [r]."""
    if config.solver == "incremental":
        from sklearn.decomposition import IncrementalPCA

        rows = seen.wanted.double().cpu().numpy()
        found = IncrementalPCA(n_components=rank, batch_size=max(1024, 2 * rank)).fit(rows)
        return torch.from_numpy(found.components_.T.copy()), torch.from_numpy(
            found.explained_variance_
        ).sqrt()
    values, vectors = torch.linalg.eigh(seen.responses)
    return vectors.flip(1)[:, :rank], values.flip(0)[:rank].clamp_min(0).sqrt()


METHOD = Method(
    "pca",
    PcaConfig,
    forms,
    split,
    errors,
    "principal components of the responses of linear layers and convolutions, exact or incremental",
    needs_data=True,
)
