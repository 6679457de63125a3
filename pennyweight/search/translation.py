"""The baseline's answers in the tokens of candidates whose vocabulary was trimmed, and the ratio of the token
counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from pennyweight.deployment import Deployment
from pennyweight.evidence import Reference
from pennyweight.tokenizer import Translation, tokens_per_baseline_token, translation


class AnswerTranslation:
    """Translates answers of the baseline, whose tokenizer is in `model_path`. Results are kept by model."""

    def __init__(self, model_path: Path) -> None:
        self._model_path = model_path
        self._translations: dict[str, Translation | None] = {}
        self._ratios: dict[str, float] = {}

    def translation(self, deployment: Deployment) -> Translation | None:
        """From the baseline's tokens to this deployment's; None where the vocabulary is the same."""
        if not deployment.recipe:
            return None
        if deployment.model_path not in self._translations:
            self._translations[deployment.model_path] = translation(self._model_path, Path(deployment.model_path))
        return self._translations[deployment.model_path]

    def translated(self, references: Mapping[str, Reference], deployment: Deployment) -> Mapping[str, Reference]:
        translate = self.translation(deployment)
        return {key: r.translated(translate) for key, r in references.items()} if translate else references

    def tokens_per_baseline_token(self, deployment: Deployment, answers: Iterable[Reference]) -> float:
        """This deployment's tokens per baseline token, over these answers."""
        if self.translation(deployment) is None:
            return 1.0
        if deployment.model_path not in self._ratios:
            texts = [answer.text for answer in answers]
            ratio = tokens_per_baseline_token(self._model_path, Path(deployment.model_path), texts)
            self._ratios[deployment.model_path] = ratio
        return self._ratios[deployment.model_path]
