from __future__ import annotations

from sqlalchemy import Engine

from lwplugin.serve.metrics import Metrics


def test_a_verdict_that_no_version_has_any_more_is_not_shown(engine: Engine) -> None:
    metrics = Metrics()
    metrics.judged({"pass": 2, "fail": 1})
    metrics.judged({"pass": 3})
    shown = metrics.text(engine).decode()
    assert 'lwplugin_versions{verdict="pass"} 3.0' in shown
    assert 'lwplugin_versions{verdict="fail"}' not in shown
