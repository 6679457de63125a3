"""For tests: an ask without a gateway around it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from pennyweight.deployment import Deployment
from pennyweight.serve.gateway.ask import Ask
from pennyweight.serve.gateway.tenant import ANONYMOUS, Tenant

DEPLOYMENT = Deployment("scripted", "nowhere", "tiny", "BF16", {})


def a_pool(**more: Any) -> Any:
    """What stages look at of a pool."""
    values = {
        "deployment": DEPLOYMENT,
        "names": ("model",),
        "member": "model",
        "replicas": SimpleNamespace(ready=[1]),
        "closed": False,
        "successor": None,
        "identity": "d",
        **more,
    }
    return SimpleNamespace(**values)


def an_ask(*, tenant: Tenant = ANONYMOUS, key: str = "", pool: Any = None, **body: Any) -> Ask:
    asked = {"prompt": "", **body}
    return replace(Ask.of("/v1/completions", asked, b"{}", tenant, pool or a_pool()), key=key)
