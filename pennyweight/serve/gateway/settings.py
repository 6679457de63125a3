"""How a gateway runs: where it listens, its timeouts and limits, and its API keys. What it serves is a `Service`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pennyweight.errors import UsageError


@dataclass(frozen=True)
class GatewaySettings:
    """`max_queue` is how many requests may wait for each member. `slo_ttft_ms` is the limit on the time to first
    token: a request that cannot meet it is refused at once; 0: no limit. An engine that has work and sends no token for
    `stall_seconds` is stopped; 0: never."""

    host: str = "127.0.0.1"
    port: int = 8000
    max_queue: int = 1024
    slo_ttft_ms: float = 0.0
    request_bytes: int = 4 * 2**20
    keys: Path | None = None
    stall_seconds: float = 120.0
    start_seconds: float = 300.0
    drain_seconds: float = 60.0
    state: Path | None = None  # directory for batches and their files; None: no batch API
    certificate: Path | None = None
    private_key: Path | None = None
    log_requests: bool = False
    refusals_per_second: float = 5.0  # of one client, once its first ones were answered at once; 0: no limit
    allowed_origins: tuple[str, ...] = ()  # of web pages that may use it
    mix_shadow: bool = False  # mixtures decide and count, and the large member answers
    similar_rebuild: bool = False  # drop similar answers whose questions another embedding has read
    restart: bool = True  # restart a lost engine; False in a measurement, which must fail instead

    def __post_init__(self) -> None:
        for name, least in (("max_queue", 0), ("request_bytes", 1024), ("refusals_per_second", 0)):
            if getattr(self, name) < least:
                option = f"--{name.replace('_', '-')}"
                raise UsageError(f"{option} {getattr(self, name)} is not possible: use {least} or more.")
        if (self.certificate is None) != (self.private_key is None):
            raise UsageError("TLS needs both --tls-certificate and --tls-key.")
        for file in (self.keys, self.certificate, self.private_key):
            if file is not None and not file.is_file():
                raise UsageError(f"{file} does not exist: give a file that does.")
