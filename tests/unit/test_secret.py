from __future__ import annotations

import pytest

from lwplugin.secret import redact


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql+psycopg://me:s3cr@t:5/x", "postgresql+psycopg://t:5/x"),
        ("postgresql://me:p@ss@db/mlflow is down", "postgresql://db/mlflow is down"),
        ("from http://a/b@c to http://me:x@d/e", "from http://a/b@c to http://d/e"),
        ("GET https://token@host/api failed", "GET https://host/api failed"),
        ("s3://bucket/path@v1", "s3://bucket/path@v1"),
        ("models:/net@champion", "models:/net@champion"),
    ],
)
def test_credentials_are_cut_out_of_addresses(text: str, expected: str) -> None:
    assert redact(text) == expected
