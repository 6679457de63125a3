"""What a gateway is told: where it listens, what it holds, and whom it lets in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pennyweight.errors import UsageError


@dataclass(frozen=True)
class GatewaySettings:
    """`max_queue` is how many requests may wait. `slo_ttft_ms` is the longest wait for a first token that is of use: 0
    promises nothing, else who cannot have it is told at once. `stall_seconds` without a token from an engine that has
    work end it; 0 never does."""

    host: str = "127.0.0.1"
    port: int = 8000
    replicas: int = 1
    max_queue: int = 1024
    slo_ttft_ms: float = 0.0
    request_bytes: int = 4 * 2**20
    keys: Path | None = None
    cache: str = ""  # a file for SQLite, redis://…, or nothing
    cache_ttl_seconds: float = 3600.0
    cache_bytes: int = 2**30
    stall_seconds: float = 120.0
    start_seconds: float = 300.0
    drain_seconds: float = 60.0
    state: Path | None = None  # a directory for batches and their files; nothing: no batch API
    certificate: Path | None = None
    private_key: Path | None = None
    log_requests: bool = False

    def __post_init__(self) -> None:
        for name, least in (("replicas", 1), ("max_queue", 0), ("request_bytes", 1024), ("cache_bytes", 2**20)):
            if getattr(self, name) < least:
                option = f"--{name.replace('_', '-')}"
                raise UsageError(f"{option} {getattr(self, name)} is not possible: use {least} or more.")
        if (self.certificate is None) != (self.private_key is None):
            raise UsageError("TLS needs both --tls-certificate and --tls-key.")
        for file in (self.keys, self.certificate, self.private_key):
            if file is not None and not file.is_file():
                raise UsageError(f"{file} does not exist: give a file that does.")
