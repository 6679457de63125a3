"""How techniques are composed, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from pennyweight import checkpoint
from pennyweight.deployment import Deployment
from pennyweight.errors import UsageError
from pennyweight.measurement import Quantity, collect
from pennyweight.search import compatibility
from pennyweight.search.accounting import technique_gains
from pennyweight.search.recipes import Recipe, compose, parse
from pennyweight.study import Stage, Trial


def test_all_combinations_in_their_order() -> None:
    made, refused = compose(parse("distill,vocabulary,prune:20%"))
    assert [recipe.name for recipe in made] == [
        "",
        "prune:20%",
        "vocabulary",
        "prune:20%+vocabulary",
        "prune:20%+distill",
        "prune:20%+vocabulary+distill",
    ]
    assert [name for name, _ in refused] == ["distill", "vocabulary+distill"]


def test_what_breaks_is_refused_with_its_evidence() -> None:
    _, refused = compose(parse("sparsity,distill"))
    assert any("test_training_fills_zeros" in reason for _, reason in refused)


def test_the_evidence_exists() -> None:
    root = Path(__file__).parent.parent.parent
    for row in compatibility.TABLE:
        file, _, name = row.evidence.partition("::")
        if name:
            assert f"def {name}(" in (root / file).read_text(), row
        else:
            assert (root / file.split(",")[0]).exists(), row


@pytest.mark.parametrize("text", ["melt", "prune:2", "prune:0%", "distill:many", "distill:0", "kv-heads:x"])
def test_unknown_techniques_and_amounts_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=text.partition(":")[0]):
        parse(text)


def test_the_predicted_config_is_the_built_one(tiny_checkpoint: Path) -> None:
    model = checkpoint.open_model(str(tiny_checkpoint))
    config = Recipe((("prune", "50%"), ("neurons", "25%"), ("kv-heads", "1"), ("vocabulary", "0"))).config(model.config)
    assert (config["num_hidden_layers"], config["intermediate_size"]) == (1, 96)
    assert (config["num_key_value_heads"], config["vocab_size"]) == (1, 256)


def test_a_recipe_that_the_model_cannot_have_says_why(tiny_checkpoint: Path) -> None:
    model = checkpoint.open_model(str(tiny_checkpoint))
    assert "does not divide" in (Recipe((("kv-heads", "2"),)).refusal(model) or "")
    assert Recipe((("prune", "50%"),)).refusal(model) is None


def trial(recipe: str, speed: float, nats: float) -> Trial:
    measured = collect(
        "x", [Quantity("output_throughput", speed, "tokens/s", "higher"), Quantity("added_nats", nats, "nats", "lower")]
    )
    return Trial(Stage.SCREEN, Deployment("openvino", "", "", "Q8_0", recipe=recipe), measured)


def test_what_each_gave_alone_and_together() -> None:
    rows = technique_gains(
        [trial("", 100, 0.01), trial("a", 110, 0.02), trial("b", 120, 0.01), trial("a+b", 125, 0.03)]
    )
    together = next(row for row in rows if row.recipe == "a+b")
    assert together.speed == pytest.approx(1.25) and together.alone == pytest.approx(1.32)
    assert together.added_nats == pytest.approx(0.02)
