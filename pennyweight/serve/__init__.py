"""Service -> running endpoint: engine processes, and the gateway in front of them."""

from pennyweight.serve.opening import Endpoint, serve
from pennyweight.serve.process import EngineProcess

__all__ = ["Endpoint", "EngineProcess", "serve"]
