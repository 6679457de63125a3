"""A checkpoint's tokenizer and chat template, without importing transformers (which costs seconds and 200 MB).

`tokenizers` does the tokens, chat_template.py the template.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from pennyweight.chat_template import ChatTemplate, templates_of
from pennyweight.errors import ModelError
from pennyweight.plain_specials import PlainSpecials
from pennyweight.workload import Request

BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
# Tokens that a class of transformers is made with where no file names them: the classes that decoders have.
_LLAMA = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
_GPT2 = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
_QWEN2 = dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<|endoftext|>")
_GEMMA = {
    "bos_token": "<bos>",
    "eos_token": "<eos>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
}
_COHERE = {
    "bos_token": "<BOS_TOKEN>",
    "eos_token": "<|END_OF_TURN_TOKEN|>",
    "unk_token": "<UNK>",
    "pad_token": "<PAD>",
    "cls_token": "<CLS>",
    "sep_token": "<SEP>",
    "mask_token": "<MASK_TOKEN>",
}
CLASS_TOKENS: Mapping[str, Mapping[str, str]] = {
    name + ending: tokens
    for name, tokens in {
        "LlamaTokenizer": _LLAMA,
        "CodeLlamaTokenizer": _LLAMA,
        "GemmaTokenizer": _GEMMA,
        "CohereTokenizer": _COHERE,
        "GPT2Tokenizer": _GPT2,
        "GPTNeoXTokenizer": {**_GPT2, "pad_token": "<|padding|>"},
        "Qwen2Tokenizer": _QWEN2,
    }.items()
    for ending in ("", "Fast")
}
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class Tokenizer:
    """Text to token ids and back, for the checkpoint in `directory`."""

    def __init__(self, directory: Path) -> None:
        file = directory / "tokenizer.json"
        if not file.exists():
            raise ModelError(f"{directory} has no tokenizer.json: save the tokenizer beside the weights.")
        try:
            self.backend = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the binding raises bare Exception
            raise ModelError(f"{file} is damaged ({error}): copy it again from the source.") from None
        self._directory = directory
        config = _json(directory / "tokenizer_config.json")
        self.special = _special_tokens(directory, config)
        self._templates = templates_of(directory, config)
        self._compiled: dict[str, ChatTemplate] = {}

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return list(self.backend.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self.backend.decode(list(tokens), skip_special_tokens=True))

    def spelled(self, tokens: Sequence[int]) -> str:
        """As text, with control tokens spelled."""
        return str(self.backend.decode(list(tokens), skip_special_tokens=False))

    def token_text(self, token: int) -> str:
        """One token on its own, as log-probability lists show it; what is a part of a character only is U+FFFD."""
        return self.token_bytes(token).decode(errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """What a token adds to a text; a control token is spelled."""
        known = self.byte_pieces.get(token)
        return known if known is not None else (self.backend.id_to_token(token) or "").encode()

    @property
    def vocabulary_size(self) -> int:
        return int(self.backend.get_vocab_size(with_added_tokens=True))

    @property
    def template_text(self) -> str:
        """The chat templates' own text, which shows what they can take; empty for a base model."""
        return "\n".join(self._templates.values())

    @cached_property
    def longest_token(self) -> int:
        """Bytes of the longest piece of the vocabulary."""
        return max(len(piece.encode()) for piece in self.backend.get_vocab())

    @property
    def has_template(self) -> bool:
        """Without one (a base model), messages become plain paragraphs."""
        return bool(self._templates)

    @cached_property
    def byte_pieces(self) -> dict[int, bytes]:
        """What each token stands for in a text, in bytes: a character can take several tokens."""
        if '"ByteLevel"' in json.dumps(json.loads(self.backend.to_str())["decoder"]):
            known = _byte_of_stand_in()
            pieces = {n: piece for piece, n in self.backend.get_vocab().items() if set(piece) <= known.keys()}
            return {number: bytes(known[stand_in] for stand_in in piece) for number, piece in pieces.items()}
        return {n: _piece_bytes(piece) for piece, n in self.backend.get_vocab().items()}

    @cached_property
    def end_tokens(self) -> tuple[int, ...]:
        """Ids that end an answer: those of generation_config.json and config.json, else the tokenizer's own."""
        found: set[int] = set()
        for name in ("generation_config.json", "config.json"):
            value = _json(self._directory / name).get("eos_token_id")
            found.update([value] if isinstance(value, int) else value or [])
        if not found and self.special.get("eos_token"):
            token = self.backend.token_to_id(self.special["eos_token"])
            found.update([] if token is None else [token])
        return tuple(sorted(found))

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        parse_special_tokens: bool = False,
        **options: Any,
    ) -> list[int]:
        """Tokens of a chat prompt that asks for the next answer. Control tokens that messages spell are text unless
        `parse_special_tokens` is set.

        A checkpoint without a template (a base model) gets the messages as plain paragraphs.
        """
        plain = self._plain_specials
        if parse_special_tokens or not plain.spelled_in((messages, tools, documents)):
            text = self.chat_text(messages, tools=tools, documents=documents, **options)
            return self.encode(text, add_special_tokens=not self.has_template)
        masked = (plain.masked(value) for value in (messages, tools, documents))
        text = self.chat_text(next(masked), tools=next(masked), documents=next(masked), **options)
        return plain.encode(text, add_special_tokens=not self.has_template)

    @cached_property
    def _plain_specials(self) -> PlainSpecials:
        return PlainSpecials(self.backend)

    def prompt_text(self, request: Request) -> str:
        """What the model reads of a request, as text."""
        if request.messages:
            return self.chat_text(request.messages, tools=self._tools_of(request))
        return request.prompt or self.decode(request.prompt_tokens)

    def request_tokens(self, request: Request) -> Sequence[int]:
        """What the model reads of a request."""
        if request.messages:
            return self.chat(request.messages, tools=self._tools_of(request))
        return request.prompt_tokens or self.encode(request.prompt)

    def _tools_of(self, request: Request) -> Sequence[Mapping[str, Any]] | None:
        return (request.fields.get("tools") or None) if "tools" in self.template_text else None

    def chat_text(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The same prompt before it is cut into tokens. With `continue_final_message` it ends with the last message's
        own words; `variables` are what a template reads besides."""
        if not self.has_template:
            return "\n\n".join(message["content"] for message in messages)
        text = self._template("tool_use" if tools and "tool_use" in self._templates else "default").render(
            messages,
            tools=tools,
            documents=documents,
            add_generation_prompt=add_generation_prompt and not continue_final_message,
            variables=variables,
        )
        return _cut_after(text, messages[-1]["content"]) if continue_final_message else text

    def _template(self, name: str) -> ChatTemplate:
        if name not in self._templates:
            known = ", ".join(sorted(self._templates))
            raise ModelError(
                f"{self._directory} has several chat templates ({known}) and none called default: add one."
            )
        if name not in self._compiled:
            self._compiled[name] = ChatTemplate(self._templates[name], self.special)
        return self._compiled[name]


class Translation:
    """A token of one vocabulary in the tokens of another that was trimmed from it: itself, or its parts."""

    def __init__(self, source: Tokenizer, target: Tokenizer) -> None:
        self._pieces = {number: piece for piece, number in source.backend.get_vocab().items()}
        self._target = target.backend
        self._known: dict[int, tuple[int, ...]] = {}

    def __call__(self, token: int) -> tuple[int, ...]:
        if token not in self._known:
            piece = self._pieces[token]
            own = self._target.token_to_id(piece)
            parts = (own,) if own is not None else tuple(part.id for part in self._target.model.tokenize(piece))
            self._known[token] = parts
        return self._known[token]


def translation(source: Path, target: Path) -> Translation | None:
    """None where the vocabularies are the same."""
    before, after = Tokenizer(source), Tokenizer(target)
    return None if before.backend.get_vocab() == after.backend.get_vocab() else Translation(before, after)


def tokens_per_baseline_token(before: Path, after: Path, texts: Iterable[str]) -> float:
    """How many tokens of the tokenizer in `after` the texts take for each token of the one in `before`."""
    old, new = Tokenizer(before), Tokenizer(after)
    counts = [(len(old.encode(t)), len(new.encode(t))) for t in texts]
    total = sum(count for count, _ in counts)
    return sum(count for _, count in counts) / total if total else 1.0


def _byte_of_stand_in() -> dict[str, int]:
    """Byte-level vocabularies spell bytes that are no visible character as one from 256 on (GPT-2's table)."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + place): byte for place, byte in enumerate(hidden)}


def _piece_bytes(piece: str) -> bytes:
    """A SentencePiece one."""
    matched = BYTE_PIECE.fullmatch(piece)
    return bytes([int(matched[1], 16)]) if matched else piece.replace("▁", " ").encode()


def _special_tokens(directory: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Name -> text of the tokens that a template may name, as transformers finds them: in tokenizer_config.json, in the
    older special_tokens_map.json where the former lists no added tokens, else what the tokenizer's class is made
    with."""
    known = dict(CLASS_TOKENS.get(str(config.get("tokenizer_class") or ""), {}))
    sources = [config] if "added_tokens_decoder" in config else [config, _json(directory / "special_tokens_map.json")]
    for source in sources:
        extra = source.get("extra_special_tokens")
        named = {**source, **(extra if isinstance(extra, dict) else {})}
        wanted = (*NAMED, *(extra if isinstance(extra, dict) else ()))
        known.update({name: _token_text(named[name]) for name in wanted if name in named})
    return {name: text for name, text in known.items() if text}


def _token_text(value: Any) -> str:
    return str(value["content"]) if isinstance(value, dict) else (value or "")


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ModelError(f"{path} is no JSON ({error}): copy it again from the source.") from None
    return value if isinstance(value, dict) else {}


def _cut_after(text: str, words: str) -> str:
    """A chat up to its last message's words, as transformers does: templates may strip blanks around them."""
    place = text.rfind(words.strip())
    if place < 0 or not words.strip():
        raise ModelError("The model's chat template changes the last message, so that it cannot be gone on with.")
    return text[: place + len(words)] if text[place:].startswith(words) else text[: place + len(words.strip())]
