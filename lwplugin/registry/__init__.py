"""The model registry: pull, register, promote, roll back, lineage, and the flavor MLflow serves.

The only place in lwplugin that imports mlflow, and only when a function is called.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lwplugin.registry.again import Remeasured as Remeasured
    from lwplugin.registry.again import remeasure as remeasure
    from lwplugin.registry.aliases import Promotion as Promotion
    from lwplugin.registry.aliases import promote as promote
    from lwplugin.registry.aliases import rollback as rollback
    from lwplugin.registry.decisions import Decision as Decision
    from lwplugin.registry.decisions import decision_log as decision_log
    from lwplugin.registry.download import pull as pull
    from lwplugin.registry.failure import record_failure as record_failure
    from lwplugin.registry.lineage import ancestors as ancestors
    from lwplugin.registry.listing import Holdings as Holdings
    from lwplugin.registry.listing import Listed as Listed
    from lwplugin.registry.listing import holdings as holdings
    from lwplugin.registry.listing import inventory as inventory
    from lwplugin.registry.listing import look_up as look_up
    from lwplugin.registry.registration import Registration as Registration
    from lwplugin.registry.registration import register as register
    from lwplugin.registry.signed import sign_version as sign_version
    from lwplugin.registry.signed import verify_version as verify_version
    from lwplugin.registry.versions import Resolved as Resolved
    from lwplugin.registry.versions import resolve as resolve

# Lazy: whoever serves a light version imports `lwplugin.registry.flavor` and must not pay for torch.
_HOME = {
    "Decision": "decisions",
    "Holdings": "listing",
    "Listed": "listing",
    "Promotion": "aliases",
    "Registration": "registration",
    "Resolved": "versions",
    "ancestors": "lineage",
    "decision_log": "decisions",
    "holdings": "listing",
    "inventory": "listing",
    "look_up": "listing",
    "promote": "aliases",
    "pull": "download",
    "record_failure": "failure",
    "register": "registration",
    "remeasure": "again",
    "Remeasured": "again",
    "resolve": "versions",
    "rollback": "aliases",
    "sign_version": "signed",
    "verify_version": "signed",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
