"""Token ids that configs name (config.json, generation_config.json, tokenizer_config.json), when tokens get new
numbers. Field names are those of transformers' `GenerationConfig`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pennyweight.errors import ModelError

# One id or a list of ids that the model needs: these tokens stay.
NEEDED = (
    *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "unk_token_id"),
    *("forced_bos_token_id", "forced_eos_token_id"),
)
SUPPRESSED = ("suppress_tokens", "begin_suppress_tokens")  # never generated: without the token, nothing is to suppress
SUPPRESSED_PHRASES = ("bad_words_ids",)  # lists of ids, likewise
UNKNOWN = ("force_words_ids", "forced_decoder_ids", "sequence_bias")  # structures that are refused


def needed(config: Mapping[str, Any]) -> Iterator[int]:
    """The ids that must be kept. Raises `ModelError` for a field that would name other tokens afterwards."""
    for name in UNKNOWN:
        if config.get(name):
            raise ModelError(f"The model's configuration sets {name}, which cannot follow a trimming: remove it.")
    for name in NEEDED:
        ids = config.get(name)
        for token in ids if isinstance(ids, list) else [ids]:
            if isinstance(token, int) and token >= 0:
                yield token


def renumbered(value: Mapping[str, Any], new: Mapping[int, int]) -> dict[str, Any]:
    """The config with the new ids. An id below 0 stands for no token and becomes null."""
    changed = dict(value)
    for name in NEEDED:
        ids = changed.get(name)
        if ids is None:
            continue
        lost = [i for i in (ids if isinstance(ids, list) else [ids]) if i >= 0 and i not in new]
        if lost:
            raise ModelError(
                f"The model's {name} is {lost[0]}, which its tokenizer does not have: set it to a token that exists "
                "(config.json, generation_config.json) before trimming."
            )
        if isinstance(ids, list):
            changed[name] = [new[i] for i in ids if i >= 0]
        else:
            changed[name] = new[ids] if ids >= 0 else None
    for name in SUPPRESSED:
        if changed.get(name):
            changed[name] = [new[i] for i in changed[name] if i in new]
    for name in SUPPRESSED_PHRASES:
        if changed.get(name):
            changed[name] = [[new[i] for i in ids] for ids in changed[name] if all(i in new for i in ids)]
    if isinstance(changed.get("added_tokens_decoder"), dict):
        entries = changed["added_tokens_decoder"].items()
        changed["added_tokens_decoder"] = {str(new[int(i)]): entry for i, entry in entries if int(i) in new}
    return changed
