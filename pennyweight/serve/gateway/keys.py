"""API keys, which identify tenants. Only hashes are kept; a key is shown once, when it is made.

The file is JSON: {"keys": [{"name": …, "hash": …, "requests_per_minute": 0, "tokens_per_minute": 0, "priority": 0}]}.
Keys are 256 random bits, so one round of SHA-256 keeps them as safe as a slow hash would a password.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
from dataclasses import asdict
from pathlib import Path

from pennyweight.errors import StorageError, UsageError
from pennyweight.serve.gateway.tenant import ANONYMOUS, BATCH, Tenant

PREFIX = "pw-"
HASH = re.compile(r"[0-9a-f]{64}")


class Keys:
    """The tenants of a file, or without one a single tenant who needs no key."""

    def __init__(self, file: Path | None) -> None:
        self._tenants = read(file) if file is not None else []
        self.open = file is None

    def tenant(self, authorization: str) -> Tenant | None:
        """The tenant whose key is in this Authorization header, or None. Every hash is compared, in constant time."""
        if self.open:
            return ANONYMOUS
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return None
        given, found = hashed(key.strip()), None
        for tenant in self._tenants:
            if hmac.compare_digest(tenant.hash, given):
                found = tenant
        return found


def hashed(key: str) -> str:
    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()


def read(file: Path) -> list[Tenant]:
    try:
        tenants = [Tenant(**row) for row in json.loads(file.read_text())["keys"]]
        if any(not HASH.fullmatch(tenant.hash) for tenant in tenants):
            raise ValueError("a row has no SHA-256 as its hash")
        return tenants
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{file} is no file of keys ({error}): make keys with `pw keys add`.") from None


def add(file: Path, tenant: Tenant) -> str:
    """Write a new key's hash; returns the key itself, which is nowhere else."""
    tenants = read(file)
    if any(other.name == tenant.name for other in tenants):
        raise UsageError(f"{file} has a key named {tenant.name!r} already: remove it first, or choose another name.")
    if not 0 <= tenant.priority < BATCH:
        raise UsageError(f"--priority {tenant.priority} is not possible: use 0 (soonest) to {BATCH - 1}.")
    key = PREFIX + secrets.token_urlsafe(32)
    _write(file, [*tenants, Tenant(**{**asdict(tenant), "hash": hashed(key)})])
    return key


def remove(file: Path, name: str) -> None:
    tenants = read(file)
    left = [tenant for tenant in tenants if tenant.name != name]
    if len(left) == len(tenants):
        known = ", ".join(tenant.name for tenant in tenants) or "none"
        raise UsageError(f"{file} has no key named {name!r}: it has {known}.")
    _write(file, left)


def _write(file: Path, tenants: list[Tenant]) -> None:
    """Readable by its owner only; replaced atomically."""
    partial = file.with_name(file.name + ".partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as out:
        json.dump({"keys": [asdict(tenant) for tenant in tenants]}, out, indent=1)
    partial.rename(file)
