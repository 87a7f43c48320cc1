from __future__ import annotations

from pathlib import Path

import pytest

from lwplugin.errors import LwpluginError
from lwplugin.settings import Settings, read, settings


def test_nothing_set_gives_the_defaults() -> None:
    assert read({}) == Settings()


def test_an_empty_variable_counts_as_unset() -> None:
    assert read({"LWPLUGIN_STORE": " ", "LWPLUGIN_DEBUG": ""}) == Settings()


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("LWPLUGIN_STORE", "/data/store", "store", Path("/data/store")),
        ("LWPLUGIN_ALLOW_PICKLE", "0", "allow_pickle", False),
        ("LWPLUGIN_ALLOW_PICKLE", "False", "allow_pickle", False),
        ("LWPLUGIN_MAX_MODEL_BYTES", "500000000", "max_model_bytes", 500_000_000),
        ("LWPLUGIN_MAX_MODEL_BYTES", "20GiB", "max_model_bytes", 20 * 2**30),
        ("LWPLUGIN_MAX_MODEL_BYTES", "1.5m", "max_model_bytes", 3 * 2**19),
        ("LWPLUGIN_THREADS", "4", "threads", 4),
        ("LWPLUGIN_TOOLCHAINS", "/opt/toolchains", "toolchains", Path("/opt/toolchains")),
        ("LWPLUGIN_DEBUG", "yes", "debug", True),
    ],
)
def test_each_variable_is_read(name: str, text: str, field: str, value: object) -> None:
    assert getattr(read({name: text}), field) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("LWPLUGIN_ALLOW_PICKLE", "maybe"),
        ("LWPLUGIN_MAX_MODEL_BYTES", "much"),
        ("LWPLUGIN_MAX_MODEL_BYTES", "0"),
        ("LWPLUGIN_MAX_MODEL_BYTES", "inf"),
        ("LWPLUGIN_THREADS", "-1"),
        ("LWPLUGIN_THREADS", "two"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name(name: str, text: str) -> None:
    with pytest.raises(LwpluginError, match=name) as caught:
        read({name: text})
    assert text in str(caught.value)


def test_the_environment_is_read_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LWPLUGIN_THREADS", "3")
    assert settings().threads == 3
    monkeypatch.setenv("LWPLUGIN_THREADS", "5")
    assert settings().threads == 5
