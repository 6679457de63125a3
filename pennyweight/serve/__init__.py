"""Service -> running endpoint: engine processes, and the gateway in front of them."""

from pennyweight.serve.opening import Endpoint, open_engine, open_service
from pennyweight.serve.process import ServerProcess

__all__ = ["Endpoint", "ServerProcess", "open_engine", "open_service"]
