"""Apply a technique of one's own (clip_weights.py) and see what it costs in quality.

python own_technique.py MODEL
"""

import sys

from clip_weights import ClipWeights

import pennyweight as pw


def main(model: str) -> None:
    original = pw.open_model(model)
    changed = pw.apply(ClipWeights(deviations=3.0), original)
    print(f"{changed.id} is at {changed.path}")
    before, after = (pw.Deployment.of(one, "transformers") for one in (original, changed))
    evaluated = pw.evaluate(after, before, "tasks", pw.Budget(max_added_nats=0.02))
    print(f"{evaluated.verdict.outcome}: {evaluated.measurement['added_nats']:+.4f} nats a token")


if __name__ == "__main__":
    main(sys.argv[1])
