"""What stock transformers finds in a checkpoint: what its own class for the config would miss, not use, or find of
another shape, and the tokens that its tokenizer makes of the probes. Nothing is loaded: tensors stay on torch's meta
device, which has shapes and no values. Runs in a process that may import transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pennyweight.checks.probes import PROBES

SHOWN = 20  # of each kind


def report(directory: Path) -> dict[str, Any]:
    """All that is checked when a checkpoint is opened."""
    found = tensors(directory)
    return found if "error" in found else {"prompts": prompts(directory), **found}


def tensors(directory: Path) -> dict[str, Any]:
    """What its class misses (`missing`), does not use, or finds of another shape; {"error": why} where it cannot be
    opened."""
    from transformers import AutoModelForCausalLM

    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            directory,
            device_map={"": "meta"},
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            trust_remote_code=False,  # a checkpoint's own code is never run
        )
    except Exception as error:  # a config can be wrong in as many ways as there are classes
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return {"error": f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"}
    return {
        "class": type(model).__name__,
        "tied": bool(getattr(model.config.get_text_config(), "tie_word_embeddings", False)),
        "embedding_rows": int(model.get_input_embeddings().weight.shape[0]),
        "missing": sorted(found["missing_keys"])[:SHOWN],
        "unexpected": sorted(found["unexpected_keys"])[:SHOWN],
        "mismatched": [[name, list(ours), list(theirs)] for name, ours, theirs in sorted(found["mismatched_keys"])][
            :SHOWN
        ],
    }


def prompts(directory: Path) -> list[list[int] | None]:
    """The token ids that transformers makes of each of `PROBES`; None for what its template does not take."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    found: list[list[int] | None] = []
    for probe in PROBES:
        try:
            if isinstance(probe, str):
                found.append(list(tokenizer(probe)["input_ids"]))
            else:
                made = tokenizer.apply_chat_template(probe, add_generation_prompt=True, return_dict=True)
                found.append(list(made["input_ids"]))
        except Exception:  # no template, or one that refuses these roles
            found.append(None)
    return found
