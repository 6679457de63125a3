"""`pw plan` and `pw simulate` as a user gives them: relative paths, own files, every bad input as one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pennyweight.simulate import Pool, RequestTable, SimulatedCluster, simulate
from pennyweight.step_price import ReplicaLimits, StepPrice
from tests.cli.test_front_door import pw
from tests.plan.planned import DENSE

PRICE, LIMITS = StepPrice(0.01, 1e-5, 1e-8, 1e-5), ReplicaLimits(8, 2048, 1000)
SHAPE = ("--slo", "ttft:3000,tpot:80", "--machines", "h100_sxm,l40s", "--precisions", "bf16,fp8")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    simulate(SimulatedCluster(Pool(1, PRICE, LIMITS)), RequestTable.of_lengths([0.0], [5], [5]))  # compiles, once
    made = tmp_path_factory.mktemp("own work")
    (made / "my model").mkdir()
    (made / "my model" / "config.json").write_text(json.dumps(DENSE))
    for name, more in (
        ("bert", {"architectures": ["BertForMaskedLM"]}),
        ("quux", {"quantization_config": {"quant_method": "quux"}}),
        ("zero", {"num_hidden_layers": 0}),
    ):
        (made / name).mkdir()
        (made / name / "config.json").write_text(json.dumps({**DENSE, **more}))
    (made / "odd.jsonl").write_text('{"machine": "h100_sxm", "tp": 4}')
    (made / "odd.json").write_text('[{"name": "h100_sxm", "pirce": 2}]')
    rows = ["TIMESTAMP,ContextTokens,GeneratedTokens"]
    rows += [
        f"2023-11-16 18:{n // 600:02}:{n // 10 % 60:02}.{n % 10}000000,{100 + 37 * (n % 20)},{20 + n % 90}"
        for n in range(600)
    ]
    (made / "trace.csv").write_text("\n".join(rows) + "\n")
    return made


def told(ran: Any) -> Any:
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.strip().splitlines()[-1])


def test_a_plan_is_made_written_and_simulated(place: Path) -> None:
    found = told(pw("plan", "my model", "-w", "trace.csv", *SHAPE, "-o", "out/planned", "--json", cwd=place))
    assert found["predicted"] and found["hourly_usd"] > 0 and found["attainment"] >= 0.99
    assert json.loads((place / "out/planned/plan.json").read_text()) == found
    assert "<svg" in (place / "out/planned/plan.html").read_text()
    run = told(pw("simulate", "out/planned", "-w", "trace.csv", "--goodput", "ttft:3000,tpot:80", "--json", cwd=place))
    assert run["quantities"]["goodput_share"]["value"] >= 0.98
    assert all(one["predicted"] for one in run["quantities"].values())
    killed = told(
        pw(
            "simulate",
            "out/planned/plan.json",
            "-w",
            "trace.csv",
            "--replicas",
            "2",
            "--fail",
            "0@5",
            "--json",
            cwd=place,
        )
    )
    assert killed["quantities"]["ttft_max_ms"]["value"] >= run["quantities"]["ttft_p50_ms"]["value"]


def test_a_machine_type_more_never_costs_more(place: Path) -> None:
    """Mixtures' rules of thumb are held against single placements, simulated."""
    words = ("plan", "my model", "-w", "trace.csv", "--slo", "ttft:2000,tpot:40", "--request-rate", "60", "--json")
    costs = {
        names: told(pw(*words, "--machines", names, cwd=place))["hourly_usd"]
        for names in ("h200_sxm", "b200_sxm", "h200_sxm,b200_sxm")
    }
    assert costs["h200_sxm,b200_sxm"] <= min(costs["h200_sxm"], costs["b200_sxm"])


def test_the_model_as_it_is_is_ready_to_serve(place: Path, tiny_checkpoint: Path) -> None:
    from pennyweight.inputs import read_whole_service

    rows = "".join(f"2023-11-16 18:00:{n:02}.0000000,{9 if n else 10**6},5\n" for n in range(40))
    (place / "short.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows)
    ran = pw("plan", tiny_checkpoint, "-w", "short.csv", "--machines", "l40s_x1", "-o", "served", cwd=place)
    assert ran.returncode == 0 and "1 of 40 requests exceed" in ran.stdout, ran.stderr
    service = read_whole_service(place / "served")
    (member,) = service.members.values()
    assert member.engine == "vllm" and Path(member.model_path).samefile(tiny_checkpoint)


def test_two_measured_runs_narrow_the_plan(place: Path) -> None:
    row = {"machine": "h100_sxm", "engine": "vllm", "precision": "bf16", "prompt_tokens": 450, "output_tokens": 65}
    lines = [{**row, "concurrency": size, "tpot_ms": 7.0 + size / 40, "ttft_ms": 40.0 + 2 * size} for size in (8, 64)]
    (place / "runs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    words = ("plan", "my model/config.json", "-w", "trace.csv", "--machines", "h100_sxm", *SHAPE[:2], "--json")

    def width(*more: str) -> float:
        value, low, high = told(pw(*words, *more, cwd=place))["chosen"][0]["capacities"][0]["tpot_ms"]
        assert low < value < high
        return float(high / low)

    assert width("--calibrate", "runs.jsonl") < 0.8 * width()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nowhere",), "name a model's directory"),
        (("my model", "-w", "trace.csv", "--machines", "h100_smx"), "No machine type is named h100_smx"),
        (("my model", "-w", "trace.csv", "--slo", "ttft:0"), "above 0"),
        (("my model", "-w", "trace.csv", "--slo", "e2e:5"), "ttft and tpot"),
        (("my model", "-w", "trace.csv", "--slo", "ttft:1000,tpot:0.01"), "No placement holds"),
        (("my model", "-w", "trace.csv", "--attainment", "100%"), "attainment"),
        (("my model", "-w", "trace.csv", "--max-price", "0/h"), "no price"),
        (("my model", "-w", "trace.csv", *SHAPE, "--max-price", "0.01/h"), "0.01 are allowed"),
        (("my model", "-w", "trace.csv", "--engines", "vllm,foo"), "foo runs on none"),
        (("my model", "-w", "trace.csv", "--request-rate", "1e9", *SHAPE), "smaller rate"),
        (("bert", "-w", "trace.csv"), "does not generate text"),
        (("quux", "-w", "trace.csv"), "give --precisions"),
        (("zero", "-w", "trace.csv"), "num_hidden_layers = 0"),
        (("my model", "-w", "trace.csv", "--calibrate", "odd.jsonl"), "tp is no field of a run"),
        (("my model", "-w", "trace.csv", "--catalogue", "odd.json"), "pirce is no field"),
        (("my model", "-w", "trace.csv", "--request-rate", "-1"), "above 0"),
        (("my model", "-w", "trace.csv", "--precisions", "bf17"), "unknown"),
        (("my model", "-w", "trace.csv", "--calibrate", "trace.csv"), "line 1"),
        (("my model", "-w", "trace.csv", "--catalogue", "trace.csv"), "cannot be read"),
        (("my model", "-w", "chat"), "token"),
    ],
)
def test_bad_input_is_one_sentence(place: Path, words: tuple[str, ...], said: str) -> None:
    ran = pw("plan", *words, cwd=place)
    assert ran.returncode in (1, 2, 3) and said in ran.stderr and "Traceback" not in ran.stderr, ran.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nowhere.json", "-w", "trace.csv"), "cannot be read"),
        (("my model/config.json", "-w", "trace.csv"), "no step_price"),
        (("out/planned", "-w", "trace.csv", "--router", "random"), "unknown: use gateway"),
        (("out/planned", "-w", "trace.csv", "--fail", "5"), "number@seconds"),
        (("out/planned", "-w", "trace.csv", "--replicas", "0"), "1 or more"),
        (("out/planned", "-w", "trace.csv", "--replicas", "2", "--fail", "7@1"), "numbered"),
    ],
)
def test_a_simulation_that_cannot_be_is_refused(place: Path, words: tuple[str, ...], said: str) -> None:
    if not (place / "out" / "planned").exists():
        told(pw("plan", "my model", "-w", "trace.csv", *SHAPE, "-o", "out/planned", "--json", cwd=place))
    ran = pw("simulate", *words, cwd=place)
    assert ran.returncode in (1, 2) and said in ran.stderr and "Traceback" not in ran.stderr, ran.stderr
