"""Whether a kept answer agrees with a fresh one (similarity/agreement.py), asked through the gateway's own stages, in
the batch class, after everybody else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pennyweight.serve.gateway.ask import Ask, Stage, answer_of
from pennyweight.serve.gateway.tenant import BATCH
from pennyweight.similarity import agreement


class Agreement:
    """`compared` as in mixing/agreement.py; empty: as each request asks."""

    def __init__(self, inner: Stage, compared: str = "") -> None:
        self._inner, self._compared = inner, compared

    async def agrees(self, ask: Ask, kept: str, fresh: str) -> bool:
        """What cannot be found out counts as wrong."""

        async def post(path: str, body: Mapping[str, Any]) -> Any:
            return await self._asked(ask, path, body)

        return await agreement.agrees(ask.body, kept, fresh, post, compared=self._compared)

    async def _asked(self, ask: Ask, path: str, body: Mapping[str, Any]) -> Any:
        named = {"model": ask.body.get("model"), **body} if ask.body.get("model") else dict(body)
        plain = Ask.of(path, named, json.dumps(named).encode(), ask.tenant, ask.pool)
        head, told = await answer_of(self._inner, replace(plain, priority=BATCH, cache="no"))
        if head.refused:
            raise ValueError(f"{path} was refused: {told[:200].decode(errors='replace')}")
        return json.loads(told)
