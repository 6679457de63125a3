"""The decoder for text out of a multimodal checkpoint (Gemma 3 from 4B on, Mistral Small 3.1, LLaVA, …): what is served
here is text, and engines load the part as the model that it is. Encoders of images and sound are left out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pennyweight.checks.architecture import check_made
from pennyweight.checks.known import has_language_part
from pennyweight.errors import ModelError
from pennyweight.model import Model
from pennyweight.techniques.base import Technique

# Where checkpoints have it -> where the decoder alone has it; older and newer releases of transformers nest otherwise.
PLACES = (
    (re.compile(r"(?:model\.)?language_model\.model\.(.+)"), r"model.\1"),
    (re.compile(r"model\.language_model\.(?!model\.|lm_head\.)(.+)"), r"model.\1"),
    (re.compile(r"model\.text_model\.(.+)"), r"model.\1"),
    (re.compile(r"(?:(?:model\.)?language_model\.)?lm_head\.(.+)"), r"lm_head.\1"),
)
HEAD = "lm_head.weight"
SCALES = ("logit_scale", "logits_scaling")  # that classes of whole models leave out
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True)
class LanguagePart(Technique):
    name: ClassVar[str] = "language_part"
    packages: ClassVar[tuple[str, ...]] = ("transformers",)

    def settings(self) -> dict[str, Any]:
        return {}

    def result_kind(self, model: Model) -> tuple[str, str]:
        if not has_language_part(model.config):
            raise ModelError(f"{model.path} has no part that is a decoder for text alone: give a model for text.")
        scaled = [name for name in SCALES if model.config["text_config"].get(name) not in (None, 1)]
        if scaled:
            raise ModelError(
                f"{model.path}: its decoder alone scales logits ({scaled[0]}) where the whole model does not: give a "
                "model for text."
            )
        return "huggingface", model.scheme

    def build(self, source: Path, target: Path) -> None:
        from transformers import AutoConfig
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

        from pennyweight.weights import Weights, rewrite

        whole = Model.config_of(source)
        text = {**{name: whole[name] for name in TOKENS if whole.get(name) is not None}, **whole["text_config"]}
        part, has_head = AutoConfig.for_model(**text), HEAD in map(placed, Weights(source))
        tied = any(getattr(one, "tie_word_embeddings", False) for one in (AutoConfig.for_model(**whole), part))
        if not has_head and not tied:
            raise ModelError(f"{source} lacks its head, {HEAD}, and does not tie it: copy the whole checkpoint.")
        part.tie_word_embeddings = not has_head  # the parts of a config disagree on it
        part.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[part.model_type]]
        config = part.to_dict()  # with the values that files leave out because they are usual
        rewrite(source, target, config, lambda name, tensor: [(place, tensor)] if (place := placed(name)) else [])
        check_made(target)


def placed(name: str) -> str:
    """A tensor's name in the decoder alone; empty for one that belongs to another part."""
    return next((pattern.sub(new, name) for pattern, new in PLACES if pattern.fullmatch(name)), "")
