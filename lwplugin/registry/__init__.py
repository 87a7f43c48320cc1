"""The model registry: pull, register, promote, roll back, lineage, and the flavor MLflow serves.

The only place in lwplugin that imports mlflow, and only when a function is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lwplugin.lazy import lazily

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
__getattr__, __all__ = lazily(
    __name__,
    {
        "decisions": "Decision decision_log",
        "listing": "Holdings Listed holdings inventory look_up",
        "aliases": "Promotion promote rollback",
        "registration": "Registration register",
        "versions": "Resolved resolve",
        "lineage": "ancestors",
        "download": "pull",
        "failure": "record_failure",
        "again": "remeasure Remeasured",
        "signed": "sign_version verify_version",
    },
)
