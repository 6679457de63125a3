"""API keys, which identify tenants. Only hashes are kept; a key is shown once, when it is made.

The file is JSON: {"keys": [{"name": …, "hash": …, "requests_per_minute": 0, "tokens_per_minute": 0, "priority": 0}]}.
Keys are 256 random bits, so one round of SHA-256 keeps them as safe as a slow hash would a password.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from pennyweight.errors import StorageError, UsageError
from pennyweight.serve.gateway.tenant import ANONYMOUS, BATCH, Tenant

LOG = logging.getLogger("pennyweight.gateway")
CHECK_SECONDS = 1.0
PREFIX = "pw-"
HASH = re.compile(r"[0-9a-f]{64}")


class Keys:
    """The tenants of a file, or without one a single tenant who needs no key. The file is read again when it changes,
    so that keys act as soon as they are added or removed."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._tenants = read(file) if file is not None else []
        self._version = _version(file)
        self._checked = time.monotonic()
        self.open = file is None

    def _refresh(self) -> None:
        if self._file is None or time.monotonic() - self._checked < CHECK_SECONDS:
            return
        self._checked = time.monotonic()
        if (version := _version(self._file)) == self._version:
            return
        try:
            self._tenants, self._version = read(self._file), version
        except StorageError as error:  # those that were read before go on being accepted
            LOG.warning("%s", error)

    def named(self, name: str) -> Tenant | None:
        """The tenant of this name, while it has a key."""
        self._refresh()
        return next((tenant for tenant in self._tenants if tenant.name == name), None)

    def tenant(self, authorization: str) -> Tenant | None:
        """The tenant whose key is in this Authorization header, or None. Every hash is compared, in constant time."""
        if self.open:
            return ANONYMOUS
        self._refresh()
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
        for tenant in tenants:
            if fault := _fault(tenant):
                raise ValueError(fault)
        return tenants
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{file} is no file of keys ({error}): make keys with `pw keys add`.") from None


def _fault(tenant: Tenant) -> str | None:
    """What is wrong with a row of the file."""
    limits = (tenant.requests_per_minute, tenant.tokens_per_minute, tenant.priority)
    if not isinstance(tenant.name, str) or not isinstance(tenant.hash, str) or not HASH.fullmatch(tenant.hash):
        return "a row has no SHA-256 as its hash, or no name"
    if any(type(limit) is not int or limit < 0 for limit in limits) or tenant.priority >= BATCH:
        return f"the limits and the priority of {tenant.name!r} must be whole numbers from 0 on"
    return None


def add(file: Path, tenant: Tenant) -> str:
    """Write a new key's hash; returns the key itself, which is nowhere else."""
    for name in ("requests_per_minute", "tokens_per_minute"):
        if getattr(tenant, name) < 0:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} {getattr(tenant, name)} is not possible: use 0 (no limit) or more.")
    if not 0 <= tenant.priority < BATCH:
        raise UsageError(f"--priority {tenant.priority} is not possible: use 0 (soonest) to {BATCH - 1}.")
    key = PREFIX + secrets.token_urlsafe(32)
    with _locked(file):
        tenants = read(file)
        if any(other.name == tenant.name for other in tenants):
            message = f"{file} has a key named {tenant.name!r} already: remove it first, or choose another name."
            raise UsageError(message)
        _write(file, [*tenants, Tenant(**{**asdict(tenant), "hash": hashed(key)})])
    return key


def remove(file: Path, name: str) -> None:
    with _locked(file):
        tenants = read(file)
        left = [tenant for tenant in tenants if tenant.name != name]
        if len(left) == len(tenants):
            known = ", ".join(tenant.name for tenant in tenants) or "none"
            raise UsageError(f"{file} has no key named {name!r}: it has {known}.")
        _write(file, left)


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """One writer at a time, of all processes."""
    with file.with_name(file.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _version(file: Path | None) -> tuple[int, int, int] | None:
    try:
        found = file.stat() if file is not None else None
    except OSError:
        return None
    return None if found is None else (found.st_mtime_ns, found.st_size, found.st_ino)


def _write(file: Path, tenants: list[Tenant]) -> None:
    """Readable by its owner only; replaced atomically."""
    partial = file.with_name(file.name + ".partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as out:
        json.dump({"keys": [asdict(tenant) for tenant in tenants]}, out, indent=1)
    partial.rename(file)
