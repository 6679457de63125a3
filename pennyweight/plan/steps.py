"""The price of a step of a planned replica, for the simulator: the fitted terms of one load, taken apart into what each
sequence, token of context and prompt token adds."""

from __future__ import annotations

from pennyweight.plan.memory import STEP_TOKENS, memory_of
from pennyweight.plan.prediction import Case, Predictor, row_of
from pennyweight.plan.prices import TOKEN_TERMS, Load, terms_of
from pennyweight.step_price import ReplicaLimits, StepPrice

BLOCK_SIZE = 16
LOADING = 1e9  # bytes/s at which a replica reads its weights when it starts
START_SECONDS = 20.0  # beside that
OF_CONTEXT = ("keys and values", "attention")
OF_PROMPTS = ("prompt products", "prompt links", "prompts")
OF_SEQUENCES = ("products", "links", "sequences")
OF_STEPS = ("layers", "layers of several devices", "layers of experts", "step")


def step_price(case: Case, predictor: Predictor, *, token_seconds: float) -> StepPrice:
    """Such that a steady load of the case takes `token_seconds` a token. Weights of experts that more sequences touch
    are spread over the sequences."""
    shape, placement, load = case.shape, case.placement, case.load
    row = row_of(case)
    coefficients = predictor.token.coefficients
    weights = coefficients.get(row.engine, coefficients["*"])

    def seconds(at: Load) -> dict[str, float]:
        terms = terms_of(shape, placement, at).token
        return dict(zip(TOKEN_TERMS, (weights * terms).tolist(), strict=True))

    found = seconds(load)
    scale = token_seconds / max(sum(found.values()), 1e-9)
    alone = seconds(Load(load.prompt_tokens, load.output_tokens, float(placement.data)))
    each = load.concurrency / placement.data  # sequences of a rank
    prompts = each * load.prompt_tokens / load.output_tokens  # prompt tokens in a step
    experts = max(0.0, found["weights"] - alone["weights"])
    context = load.prompt_tokens + load.output_tokens / 2

    def part(names: tuple[str, ...], count: float) -> float:
        return scale * sum(found[name] for name in names) / count

    return StepPrice(
        step=scale * (found["weights"] - experts) + part(OF_STEPS, 1.0),
        sequence=part(OF_SEQUENCES, each) + scale * experts / each,
        context_token=part(OF_CONTEXT, each * context),
        prompt_token=part(OF_PROMPTS, prompts),
        prompt_pair=part(("prompt attention",), prompts * load.prompt_tokens / 2),
    )


def replica_limits(case: Case) -> ReplicaLimits:
    """Of one replica that takes as many requests at a time as the case has."""
    placement = case.placement
    memory = memory_of(case.shape, placement)
    weights = memory.weights * placement.devices
    return ReplicaLimits(
        max_num_seqs=max(1, round(case.load.concurrency / placement.data)),
        max_num_batched_tokens=STEP_TOKENS,
        num_kv_blocks=int(memory.cached_tokens // BLOCK_SIZE),
        block_size=BLOCK_SIZE,
        data_parallel_size=placement.data,
        start_seconds=START_SECONDS + weights / LOADING,
    )
