"""What a step of one replica costs, and what a replica can hold. The planner predicts both, measurements calibrate
them, and the simulator runs by them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StepPrice:
    """Seconds of one step of a mixed batch: a constant, and so much for each sequence that decodes, each token of its
    context (keys and values that are read), each prompt token, and each pair of a prompt token with an earlier token
    that it attends to."""

    step: float
    sequence: float
    context_token: float
    prompt_token: float
    prompt_pair: float = 0.0

    def seconds(
        self, *, sequences: int = 0, context_tokens: int = 0, prompt_tokens: int = 0, prompt_pairs: float = 0.0
    ) -> float:
        return (
            self.step
            + self.sequence * sequences
            + self.context_token * context_tokens
            + self.prompt_token * prompt_tokens
            + self.prompt_pair * prompt_pairs
        )


@dataclass(frozen=True)
class ReplicaLimits:
    """As vLLM names them: at most `max_num_seqs` sequences run at once, a step takes at most `max_num_batched_tokens`
    tokens (each decoding sequence is one, the rest goes to prompts, which are cut where they do not fit), and
    `num_kv_blocks` blocks of `block_size` tokens hold all keys and values. `data_parallel_size` ranks, each with these
    limits, step together. `start_seconds` is how long a replica takes from its launch to its first request."""

    max_num_seqs: int
    max_num_batched_tokens: int
    num_kv_blocks: int
    block_size: int = 16
    prefix_caching: bool = True
    data_parallel_size: int = 1
    start_seconds: float = 60.0
