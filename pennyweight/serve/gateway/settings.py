"""How a gateway runs: where it listens, how long it waits, and whom it lets in. What it serves is a `Service`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pennyweight.errors import UsageError


@dataclass(frozen=True)
class GatewaySettings:
    """`max_queue` is how many requests may wait for each member. `slo_ttft_ms` is the longest wait for a first token
    that is of use: 0 promises nothing, else a request that cannot have it is refused at once. `stall_seconds` without a
    token from an engine that has work end it; 0 never does."""

    host: str = "127.0.0.1"
    port: int = 8000
    max_queue: int = 1024
    slo_ttft_ms: float = 0.0
    request_bytes: int = 4 * 2**20
    keys: Path | None = None
    stall_seconds: float = 120.0
    start_seconds: float = 300.0
    drain_seconds: float = 60.0
    state: Path | None = None  # a directory for batches and their files; nothing: no batch API
    certificate: Path | None = None
    private_key: Path | None = None
    log_requests: bool = False
    restart: bool = True  # start an engine again that was lost; a measurement wants to hear of it instead

    def __post_init__(self) -> None:
        for name, least in (("max_queue", 0), ("request_bytes", 1024)):
            if getattr(self, name) < least:
                option = f"--{name.replace('_', '-')}"
                raise UsageError(f"{option} {getattr(self, name)} is not possible: use {least} or more.")
        if (self.certificate is None) != (self.private_key is None):
            raise UsageError("TLS needs both --tls-certificate and --tls-key.")
        for file in (self.keys, self.certificate, self.private_key):
            if file is not None and not file.is_file():
                raise UsageError(f"{file} does not exist: give a file that does.")
