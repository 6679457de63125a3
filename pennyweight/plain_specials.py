"""Control tokens spelled inside a message are text: `<|im_end|>` in a user's words must not end the user's turn.

The template's own control tokens get secret names before the text is cut into tokens, in the text and in a second copy
of the tokenizer; the message's stay as they are spelled, and no token of that name is left.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import tokenizers


class PlainSpecials:
    """For one tokenizer. Its second copy is made when a message first needs it."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self._backend = backend
        self._nonce = secrets.token_hex(8)  # so that nobody can write a secret name
        added = backend.get_added_tokens_decoder().values()
        self._names = sorted((token.content for token in added if token.special), key=len, reverse=True)
        self._spelled = re.compile("|".join(map(re.escape, self._names)) or r"(?!)")

    def spelled_in(self, value: Any) -> bool:
        """Does any text in it spell a control token?"""
        if isinstance(value, str):
            return self._spelled.search(value) is not None
        if isinstance(value, Mapping):
            return any(map(self.spelled_in, value.values()))
        return isinstance(value, Sequence) and any(map(self.spelled_in, value))

    def masked(self, value: Any) -> Any:
        """Messages, tools or documents with a placeholder for each control token that they spell."""
        if isinstance(value, str):
            return self._spelled.sub(lambda found: self._placeholder(self._names.index(found[0])), value)
        if isinstance(value, Mapping):
            return {name: self.masked(one) for name, one in value.items()}
        if isinstance(value, Sequence):
            return [self.masked(one) for one in value]
        return value

    def encode(self, rendered: str, *, add_special_tokens: bool) -> list[int]:
        """Tokens of a text that was rendered with masked messages."""
        text = self._spelled.sub(lambda found: self._secret(self._names.index(found[0])), rendered)
        for number, name in enumerate(self._names):
            text = text.replace(self._placeholder(number), name)
        return list(self._renamed.encode(text, add_special_tokens=add_special_tokens).ids)

    @cached_property
    def _renamed(self) -> tokenizers.Tokenizer:
        value = json.loads(self._backend.to_str())
        secret = {name: self._secret(number) for number, name in enumerate(self._names)}
        for token in value["added_tokens"]:
            token["content"] = secret.get(token["content"], token["content"])
        model = value["model"]
        if isinstance(model.get("vocab"), dict):
            model["vocab"] = {secret.get(piece, piece): number for piece, number in model["vocab"].items()}
        elif isinstance(model.get("vocab"), list):
            model["vocab"] = [[secret.get(piece, piece), score] for piece, score in model["vocab"]]
        if model.get("unk_token"):
            model["unk_token"] = secret.get(model["unk_token"], model["unk_token"])
        return tokenizers.Tokenizer.from_str(json.dumps(value))

    def _placeholder(self, number: int) -> str:
        return f"[{self._nonce}-{number}]"

    def _secret(self, number: int) -> str:
        return f"<{self._nonce}-{number}>"
