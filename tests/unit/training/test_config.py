from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from lwplugin.training import TrainConfig


def test_unknown_options_and_bad_values_are_refused() -> None:
    with pytest.raises(ValidationError, match="learning_rate"):
        TrainConfig(learning_rate=1)  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="greater than 0"):
        TrainConfig(lr=0)
    assert all(field.description for field in TrainConfig.model_fields.values())


def test_configs_and_data_specs_are_read_without_torch() -> None:
    code = (
        "import sys; from lwplugin.training import TrainConfig; "
        "from lwplugin.data import DataSpec, TaskSpec, fingerprint; TrainConfig(); "
        "fingerprint(DataSpec.of('digits')); TaskSpec.of('classification'); "
        "sys.exit('torch' in sys.modules or 'sklearn' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
