"""Where torch cannot export, one line says why, with the model's line; torch's graphs stay off the screen."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from lwplugin.data import Data
from lwplugin.errors import ExportError, ModelError
from lwplugin.export import export


class Deciding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(x.flatten(1))
        return found if found.sum() > 0 else -found


@pytest.mark.parametrize("form", ["onnx", "torch_export"])
def test_a_refusal_is_one_line(
    form: str,
    digits_data: Data,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.DEBUG, "lwplugin"), pytest.raises(ExportError) as refused:
        export(Deciding(), digits_data, format=form, path=tmp_path)
    said = str(refused.value)
    assert "\n" not in said
    assert len(said) < 600
    assert "data-dependent" in said
    assert "test_torch_errors.py:" in said
    assert "(return found if found.sum() > 0 else -found)" in said
    assert capfd.readouterr() == ("", "")
    assert "torch.ops.aten" in caplog.text


@pytest.mark.parametrize("form", ["onnx", "torch_export"])
def test_what_we_say_ourselves_is_not_put_into_torch_s_words(
    form: str, digits_data: Data, tmp_path: Path
) -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"digit": x.flatten(1), "odd": x.flatten(1)}

    with pytest.raises(
        ModelError, match=r"^The task .* cannot tell which output to judge: got outputs digit, odd"
    ):
        export(Two(), digits_data, format=form, path=tmp_path)


def test_an_operator_that_onnx_has_not_is_named(digits_data: Data, tmp_path: Path) -> None:
    class Spectral(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.eigvalsh(x.squeeze(1) @ x.squeeze(1).mT)

    with pytest.raises(
        ExportError, match=r"eigh.*Do: compute it with other operators, or export format 'torch_export'"
    ):
        export(Spectral(), digits_data, path=tmp_path)
