"""The cost model: more work never takes less time, fewer bytes never more."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from pennyweight import schemes as table
from pennyweight.engines.base import ENGINES, engine_class
from pennyweight.hardware import Hardware
from pennyweight.measurement import Measurement
from pennyweight.plan.cost import Load, predict
from pennyweight.serve import catalogue
from pennyweight.shape import ModelShape

STEADY = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
SLACK = 1 + 1e-9
LADDER = ("F32", "BF16", "Q8_0", "Q4_K_M", "Q4_0", "INT4")
CONFIG = {
    "hidden_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 8192,
    "vocab_size": 128256,
    "head_dim": 64,
    "tie_word_embeddings": True,
}

engines = st.sampled_from(["transformers", "openvino", "onnxruntime", "scripted"])
schemes = st.sampled_from(sorted(table.TABLE))
streams = st.integers(1, 256)
tokens = st.floats(1, 8000)
machines = st.builds(
    lambda bandwidth, rate, bf16, int8: Hardware(
        "cpu",
        2,
        1 << 34,
        memory_bandwidth=bandwidth,
        arithmetic_rate={"f32": rate, "bf16": rate * bf16, "int8": rate * bf16 * int8},
    ),
    st.floats(1e9, 4e12),
    st.floats(1e10, 1e15),
    st.floats(1, 16),
    st.floats(1, 4),
)
MACHINE = Hardware("cpu", 2, 1 << 34, memory_bandwidth=34e9, arithmetic_rate={"f32": 3e11, "bf16": 1e12, "int8": 2e12})
LOAD = Load(500, 100, 1)


def predicted(
    machine: Hardware = MACHINE,
    load: Load = LOAD,
    scheme: str = "BF16",
    engine: str = "openvino",
    config: dict[str, Any] = CONFIG,
    correction: float = 1.0,
) -> Measurement:
    efficiency = catalogue.efficiency(engine, scheme)
    return predict("x", config, scheme, efficiency, machine, load=load, correction=correction)


@STEADY
@given(machines, engines, schemes, tokens, tokens, streams, streams)
def test_more_streams_never_lower_the_throughput(
    machine: Hardware, engine: str, scheme: str, prompt: float, answer: float, one: int, other: int
) -> None:
    few, many = (predicted(machine, Load(prompt, answer, n), scheme, engine) for n in sorted((one, other)))
    assert many["output_throughput"] * SLACK >= few["output_throughput"]
    assert many["tpot_p50_ms"] * SLACK >= few["tpot_p50_ms"]
    assert many["peak_memory_bytes"] >= few["peak_memory_bytes"]


@STEADY
@given(machines, engines, schemes, schemes, tokens, tokens, streams)
def test_fewer_bits_of_one_number_type_are_never_slower(
    machine: Hardware, engine: str, one: str, other: str, prompt: float, answer: float, count: int
) -> None:
    assume(
        table.scheme(one).arithmetic == table.scheme(other).arithmetic
        and catalogue.kernels(engine, one) == catalogue.kernels(engine, other)
    )
    wide, narrow = sorted((one, other), key=lambda scheme: -table.TABLE[scheme].bits)
    before, after = (predicted(machine, Load(prompt, answer, count), scheme, engine) for scheme in (wide, narrow))
    assert after["output_throughput"] * SLACK >= before["output_throughput"]
    for name in ("tpot_p50_ms", "ttft_p50_ms", "e2e_p50_ms", "peak_memory_bytes"):
        assert after[name] <= before[name] * SLACK, name


@STEADY
@given(engines, st.floats(1, 500))
def test_fewer_bits_are_faster_where_memory_sets_the_pace(engine: str, answer: float) -> None:
    quick = Hardware(
        "cpu", 2, 1 << 34, memory_bandwidth=34e9, arithmetic_rate={"f32": 1e18, "bf16": 1e18, "int8": 1e18}
    )
    speeds = [predicted(quick, Load(10, answer, 1), scheme, engine)["output_throughput"] for scheme in LADDER]
    assert speeds == sorted(set(speeds))


@STEADY
@given(machines, schemes, tokens, tokens, tokens, streams)
def test_longer_prompts_are_never_faster(
    machine: Hardware, scheme: str, one: float, other: float, answer: float, count: int
) -> None:
    short, long = (predicted(machine, Load(n, answer, count), scheme) for n in sorted((one, other)))
    for name in ("tpot_p50_ms", "ttft_p50_ms", "e2e_p50_ms", "peak_memory_bytes"):
        assert long[name] * SLACK >= short[name], name


@STEADY
@given(machines, schemes, engines, tokens, tokens, streams)
def test_one_answer_takes_as_long_as_its_tokens_and_its_prompt(
    machine: Hardware, scheme: str, engine: str, prompt: float, answer: float, count: int
) -> None:
    found = predicted(machine, Load(prompt, answer, count), scheme, engine)
    assert found["e2e_p50_ms"] >= found["tpot_p50_ms"] * answer
    assert found["output_throughput"] == pytest.approx(1000 * count / found["tpot_p50_ms"])


def test_no_engine_beats_the_memory_of_the_machine() -> None:
    shape = ModelShape.of(CONFIG)
    limit = MACHINE.memory_bandwidth / (shape.read_parameters(1) * table.TABLE["BF16"].bits / 8)
    for engine in ENGINES:
        assert 0 < predicted(engine=engine)["output_throughput"] < limit


def test_a_correction_stretches_times_and_leaves_memory() -> None:
    once, twice = predicted(), predicted(correction=2.0)
    assert twice["output_throughput"] == pytest.approx(once["output_throughput"] / 2)
    assert twice["ttft_p50_ms"] == pytest.approx(2 * once["ttft_p50_ms"])
    assert twice["peak_memory_bytes"] == once["peak_memory_bytes"]


def test_every_number_says_that_nobody_measured_it() -> None:
    assert all(quantity.predicted for quantity in predicted().quantities.values())


def test_the_shape_counts_the_weights_that_a_step_reads() -> None:
    # Llama-3.2-1B: 1,235,814,400 parameters, of which 67,584 are norms and not counted here; its head is its embedding.
    assert ModelShape.of(CONFIG).parameters == 1_235_814_400 - (2 * 16 + 1) * 2048
    assert ModelShape.of(CONFIG).cache_values_per_token == 2 * 16 * 8 * 64


def test_a_config_without_the_newer_fields_is_read_as_they_were_meant() -> None:
    old = {k: v for k, v in CONFIG.items() if k not in ("num_key_value_heads", "head_dim")}
    assert ModelShape.of(old) == ModelShape.of({**old, "num_key_value_heads": 32, "head_dim": 64})
    assert ModelShape.of({**old, "num_key_value_heads": None, "head_dim": None}) == ModelShape.of(old)


@pytest.mark.parametrize("engine", ENGINES)
def test_every_scheme_that_an_engine_serves_can_be_predicted(engine: str) -> None:
    for scheme in engine_class(engine).schemes:
        assert predicted(scheme=scheme, engine=engine)["output_throughput"] > 0


def test_a_machine_without_narrow_products_multiplies_in_f32() -> None:
    plain = Hardware("cpu", 2, 1 << 34, memory_bandwidth=34e9, arithmetic_rate={"f32": 3e11})
    assert predicted(plain, scheme="INT8")["ttft_p50_ms"] > predicted(MACHINE, scheme="INT8")["ttft_p50_ms"]
