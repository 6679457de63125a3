"""What release 0.1.0 wrote, in today's keys. Only formats.py reads it."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]


def deployment(old: Json) -> Json:
    renamed = {"served_name": "model_name", "guesses_pay_up_to": "speculation_pays_up_to"}
    return {renamed.get(name, name): value for name, value in old.items()}


def measurement(old: Json | None) -> Json | None:
    """In 0.1.0 a quantity did not contain its name."""
    if old is None:
        return None
    return {**old, "quantities": {name: {"name": name, **quantity} for name, quantity in old["quantities"].items()}}


def comparison(old: Json | None) -> Json | None:
    if old is None:
        return None
    names = ("ratio", "a_tokens_per_s", "b_tokens_per_s")
    return {**{name: old[name] for name in names}, "interval": old["ci95"]}


def verdict(old: Json) -> Json:
    return {
        "limits": [
            {
                "limit": {"quantity": row["quantity"], "bound": row["bound"]},
                "value": row["value"],
                "outcome": row["outcome"],
                "reason": row["reason"],
            }
            for row in old["limits"]
        ]
    }


def trial(old: Json) -> Json:
    """In 0.1.0 a comparison was among the notes."""
    notes = dict(old["notes"])
    compared = comparison(notes) if "ratio" in notes else None
    for name in ("ratio", "ci95", "within_noise", "a_tokens_per_s", "b_tokens_per_s"):
        notes.pop(name, None)
    return {
        "stage": old["stage"],
        "deployment": deployment(old["deployment"]),
        "measurement": measurement(old["measurement"]),
        "predicted": measurement(old["predicted"]),
        "comparison": compared,
        "failure": old["failure"],
        "seconds": old["seconds"],
        "notes": notes,
    }


def evidence(old: Json) -> Json:
    lineage = {name: value for name, value in old["model"]["lineage"].items() if name != "id"}
    memory = {name: value for name, value in old["peak_memory_bytes"].items() if value is not None}
    compared = {name: old["speedup"][name] for name in ("baseline", "fastest_unmodified")}
    speedups = {
        name: None if one is None else {"against": one["against"], "comparison": comparison(one)}
        for name, one in compared.items()
    }
    deployments = {
        name: deployment(old[name]) if old[name] else None for name in ("chosen", "baseline", "fastest_unmodified")
    }
    kept = ("unmodified_wins", "refused", "hardware", "versions", "kernels", "techniques", "trials", "seconds")
    return {
        **{name: old[name] for name in kept if name in old},
        **deployments,
        "outcome": old["verdict"],
        "model_id": old["model"]["id"],
        "model_name": old["model"]["name"],
        "lineage": lineage,
        "question": old["question"],
        "budget": old["question"]["budget"],
        "streams": old["question"]["streams"],
        "workload_name": old["workload"]["name"],
        "workload_id": old["workload"]["id"],
        "workload_requests": old["workload"]["requests"],
        "limits": verdict(old["limits"]),
        "quality": measurement(old["quality"]),
        "speed": measurement(old["speed"]),
        "against_baseline": speedups["baseline"],
        "against_unmodified": speedups["fastest_unmodified"],
        "nearest": trial(old["nearest"]) if old["nearest"] else None,
        "peak_memory_bytes": memory,
        "held_out": [{**row, "session": row.get("session", row["id"])} for row in old["held_out"]],
        "references": old["references"],
    }
