"""One process in front of the engines: it queues, limits, caches, retries and restarts, at almost no latency.

client --> guard --> application --> keys --> cache, flights --> admission --> relay --> replicas --> engine
              who may ask        known already?          whose turn?    asked, and asked again elsewhere
"""

from __future__ import annotations

from pennyweight.serve.gateway.server import reload, run
from pennyweight.serve.gateway.settings import GatewaySettings

__all__ = ["GatewaySettings", "reload", "run"]
