"""The choice between models: what is asked, what is certified, and when one model alone wins. No engine runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pennyweight import formats
from pennyweight.budget import Budget
from pennyweight.deployment import Deployment
from pennyweight.errors import MeasurementVoid, UsageError, WorkloadError
from pennyweight.hardware import detect
from pennyweight.measurement import Comparison
from pennyweight.mixture import Limit
from pennyweight.mixture_evidence import Winner
from pennyweight.model import Lineage, Model
from pennyweight.report import write_mixture
from pennyweight.search import Question, calibration, mixture_result
from pennyweight.search.judging import Judgement, Judgements, Pair, answers_hash
from pennyweight.search.members import Member, Members
from pennyweight.search.mixture_question import MixtureQuestion, needed, refuse_mixture
from pennyweight.search.mixture_search import MixtureAnswer, MixtureSearch
from pennyweight.search.outcomes import Outcome, OutcomeMatrix
from pennyweight.service import Service
from pennyweight.workload import Request, Workload, clusters

SPEEDS = {"large": 2.0, "small": 8.0, "tiny": 20.0}  # requests a second
COUNT = 1600


def requests(count: int = COUNT) -> tuple[Request, ...]:
    """A third are hard, and say so."""
    return tuple(
        Request(
            f"r{n}",
            f"r{n}",
            8,
            prompt=f"{'hard' if n % 3 == 0 else 'easy'} question {n}",
            reference="1",
            scorer="numeric",
        )
        for n in range(count)
    )


class FakeBench:
    """The large model is right in nine of ten; the small one where a question is easy, and it is unsure where not."""

    def __init__(self, *, small_right: float = 0.0, unsure: bool = True, ratio: float = 1.5) -> None:
        self.small_right, self.unsure, self.ratio = small_right, unsure, ratio
        self.asked: dict[str, int] = {}

    def ask(self, matrix: OutcomeMatrix, name: str, service: Service, halves: Sequence[Workload]) -> None:
        for half in halves:
            for request in matrix.missing(name, half.requests):
                self.asked[name] = self.asked.get(name, 0) + 1
                matrix.add(self._outcome(name, request))

    def _outcome(self, name: str, request: Request) -> Outcome:
        chance = np.random.default_rng([int(request.id[1:]), 1]).random()
        lucky = np.random.default_rng([int(request.id[1:]), 2]).random() < self.small_right
        hard = "hard" in request.prompt
        right = chance < 0.9 if name == "large" or not hard else lucky and chance < 0.9
        if name == "tiny":
            right = False
        logprob = -2.0 if hard and self.unsure and name != "large" else -0.1
        noise = np.random.default_rng([int(request.id[1:]), 3]).random() / 100
        return Outcome(request.id, name, "1" if right else "2", "stop", float(right), (logprob - noise,) * 4)

    def judge(self, judgements: Judgements, name: str, judge: Service, pairs: Sequence[Pair]) -> None:
        for pair in judgements.missing(name, pairs):
            value = 0.2 if name == "tiny" or "hard" in pair[0].prompt else 0.9
            judgements.add(Judgement(pair[0].id, name, value, answers_hash(pair)))

    def figures(self, service: Service, load: Workload) -> dict[str, float]:
        return {"request_throughput": 3.0}

    def compare(self, service: Service, alone: Service, load: Workload) -> Comparison:
        return Comparison(self.ratio, (self.ratio * 0.9, self.ratio * 1.1), (3.0,), (2.0,))


class FakeMembers:
    def given(self, name: str, question: Question, deployment: Deployment, load: Workload) -> Member:
        return Member(name, deployment, {"request_throughput": SPEEDS[name]})

    fastest = given


class Quiet:
    def stage(self, text: str) -> None: ...
    def progress(self, done: int, total: int, note: str = "") -> None: ...
    def trial(self, trial: Any) -> None: ...


def deployment(name: str, directory: Path) -> Deployment:
    return Deployment("scripted", str(directory), name, "BF16", model_name=name)


def question_of(
    directory: Path, *others: str, policies: tuple[str, ...] = ("cascade",), **more: Any
) -> MixtureQuestion:
    values = {"limit": Limit(0.05), **more}
    workload = values.pop("workload", Workload("made", requests()))
    model = Model(directory, "huggingface", "BF16", Lineage("large", {}))
    first = Question(model, workload, Budget(), streams=4)
    given = {name: deployment(name, directory) for name in ("large", *others)}
    return MixtureQuestion(first, "large", dict.fromkeys(others, first), given=given, policies=policies, **values)


def run(
    tmp_path: Path, question: MixtureQuestion, bench: FakeBench, **more: Any
) -> tuple[MixtureSearch, MixtureAnswer]:
    matrix = OutcomeMatrix(tmp_path / "outcomes.jsonl")
    search = MixtureSearch(
        question, FakeMembers(), bench, matrix, Quiet(), embed=more.get("embed"), judgements=more.get("judgements")
    )  # type: ignore[arg-type]
    return search, search.run()


def embed(texts: Sequence[str]) -> np.ndarray:
    return np.array([[float("hard" in text), float("easy" in text)] for text in texts])


def test_a_cascade_that_tells_hard_from_easy_is_certified_and_served(tmp_path: Path) -> None:
    bench = FakeBench()
    _, answer = run(tmp_path, question_of(tmp_path, "small"), bench)
    assert answer.winner is Winner.MIXTURE and answer.mixture is not None
    chosen = answer.mixture.certificate.chosen
    assert chosen is not None and 0.6 < chosen.kept < 0.75 and chosen.bound <= 0.05
    assert answer.service.mixtures[answer.chosen] == answer.mixture
    assert answer.service.member_for("large") == "large" and answer.service.mixture_for(None) == answer.chosen
    assert answer.mixture.departures < 0.05 and answer.mixture.compared == "number"
    assert answer.mixture.certificate.error == pytest.approx(0.025), "the race has the other half of the error"
    assert bench.asked["large"] == COUNT and bench.asked[f"(served) {answer.service.id}"] == COUNT // 2


def test_what_cannot_tell_them_apart_is_not_certified_and_the_constant_wins(tmp_path: Path) -> None:
    bench = FakeBench(unsure=False)
    _, answer = run(tmp_path, question_of(tmp_path, "small"), bench)
    assert answer.winner is Winner.LARGE and answer.mixture is None and answer.chosen == "large"
    assert list(answer.service.members) == ["large"] and not any(name.startswith("(served)") for name in bench.asked)


@pytest.mark.parametrize("ratio", [0.9, 1.05])
def test_a_mixture_that_is_not_certainly_faster_when_served_loses_to_the_large_model(
    tmp_path: Path, ratio: float
) -> None:
    _, answer = run(tmp_path, question_of(tmp_path, "small"), FakeBench(ratio=ratio))
    assert answer.winner is Winner.LARGE and not answer.service.mixtures
    assert any("not certainly more" in remark for remark in answer.remarks)


def test_a_choice_that_cannot_be_measured_ends_with_the_large_model_and_says_why(tmp_path: Path) -> None:
    class Failing(FakeBench):
        def compare(self, service: Service, alone: Service, load: Workload) -> Comparison:
            raise MeasurementVoid("4 of 32 requests failed: the stream ended without any content.")

    _, answer = run(tmp_path, question_of(tmp_path, "small"), Failing())
    assert answer.winner is Winner.LARGE and list(answer.service.members) == ["large"] and answer.candidates
    assert any("4 of 32 requests failed" in remark and "--resume" in remark for remark in answer.remarks)


def test_a_small_model_that_is_slower_when_served_loses_to_the_large_one(tmp_path: Path) -> None:
    _, answer = run(tmp_path, question_of(tmp_path, "small"), FakeBench(small_right=1.0, ratio=0.8))
    assert answer.winner is Winner.LARGE and list(answer.service.members) == ["large"]
    assert any("large is served" in remark for remark in answer.remarks)


def test_a_small_model_that_holds_alone_needs_no_mixture(tmp_path: Path) -> None:
    bench = FakeBench(small_right=1.0)
    _, answer = run(tmp_path, question_of(tmp_path, "small"), bench)
    assert answer.winner is Winner.SMALL and answer.chosen == "small" and list(answer.service.members) == ["small"]
    assert bench.asked["small"] < COUNT / 2, "the race ended before all held-out requests were asked"


def test_a_model_that_is_certainly_worse_is_dropped_early_without_mixtures(tmp_path: Path) -> None:
    bench = FakeBench(small_right=1.0)
    _, answer = run(tmp_path, question_of(tmp_path, "tiny", "small", policies=()), bench)
    assert answer.winner is Winner.SMALL and answer.chosen == "small"
    assert bench.asked["tiny"] <= 64 and [race.outcome for race in answer.races] == ["dropped", "accepted"]


def test_all_policies_are_tried_and_the_cheapest_is_served(tmp_path: Path) -> None:
    question = question_of(tmp_path, "small", policies=("router", "cascade", "both"))
    _, answer = run(tmp_path, question, FakeBench(), embed=embed)
    assert answer.best is not None and answer.best[0].policy.name == "router", "it asks the small model nothing in vain"
    assert {one.policy.name for one, _, _ in answer.candidates} == {"router", "cascade", "router and cascade"}


def test_models_that_score_alike_are_not_mixed(tmp_path: Path) -> None:
    class Alike(FakeBench):
        def _outcome(self, name: str, request: Request) -> Outcome:
            return replace(super()._outcome("large", request), member=name, score=0.0)

    _, answer = run(tmp_path, question_of(tmp_path, "small"), Alike())
    assert answer.winner is Winner.LARGE and any("score alike" in remark for remark in answer.remarks)


def test_without_labels_agreement_with_the_large_model_counts(tmp_path: Path) -> None:
    class Unlabelled(FakeBench):
        def _outcome(self, name: str, request: Request) -> Outcome:
            return replace(super()._outcome(name, request), score=None)

    plain = tuple(replace(request, reference=None, scorer=None) for request in requests())
    search, answer = run(tmp_path, question_of(tmp_path, "small", workload=Workload("plain", plain)), Unlabelled())
    assert search.scores.name == "agreement" and answer.winner is Winner.MIXTURE
    assert answer.mixture is not None and answer.mixture.certificate.scores == "agreement"
    assert search.scores.of("large", search.held_out.requests).min() == 1.0


class HalfLabelled(FakeBench):
    """Every second request has a label."""

    def _outcome(self, name: str, request: Request) -> Outcome:
        found = super()._outcome(name, request)
        return found if request.labelled else replace(found, score=None)


def half_labelled(count: int = 2 * COUNT) -> Workload:
    plain = [replace(r, reference=None, scorer=None) if n % 2 else r for n, r in enumerate(requests(count))]
    return Workload("half", tuple(plain))


def test_a_judge_stands_for_labels_that_are_missing(tmp_path: Path) -> None:
    question = question_of(tmp_path, "small", workload=half_labelled(), judge=True, limit=Limit(0.1))
    judgements = Judgements(tmp_path / "judgements.jsonl")
    search, answer = run(tmp_path, question, HalfLabelled(), judgements=judgements)
    assert search.scores.name == "a judge, corrected by labels" and answer.winner is Winner.MIXTURE
    chosen = answer.mixture.certificate.chosen if answer.mixture else None
    assert chosen is not None and 0.3 < chosen.kept < 0.8 and chosen.lost < chosen.bound <= 0.1
    evidence = mixture_result.gather(search, answer, detect())
    assert set(evidence.judge) == {"small"} and evidence.judge["small"].at_none > 0.9
    assert not judgements.missing("small", search.scores.pairs("small", search.held_out.requests))


def test_a_kind_whose_requests_hold_is_kept(tmp_path: Path) -> None:
    def told(request: Request) -> Request:
        kind = request.prompt.split()[0]
        chat = ({"role": "system", "content": kind}, {"role": "user", "content": f"? {request.id}"})
        return replace(request, prompt="", messages=chat, kind=kind)

    class ByKind(FakeBench):
        def _outcome(self, name: str, request: Request) -> Outcome:
            return super()._outcome(name, replace(request, prompt=request.kind))

    workload = Workload("kinds", tuple(map(told, requests())))
    question = question_of(tmp_path, "small", policies=("kind", "cascade"), workload=workload)
    _, answer = run(tmp_path, question, ByKind())
    assert answer.mixture is not None and answer.mixture.rule.name == "kind", "it asks nothing in vain"
    assert answer.mixture.certificate.chosen is not None and 0.6 < answer.mixture.certificate.chosen.kept < 0.7
    assert answer.mixture.rule.kinds is not None and len(answer.mixture.rule.kinds.losses) == 2


def test_clusters_are_kept_as_kinds_are(tmp_path: Path) -> None:
    _, answer = run(tmp_path, question_of(tmp_path, "small", policies=("cluster",)), FakeBench(), embed=embed)
    assert answer.mixture is not None and answer.mixture.rule.name == "cluster" and answer.mixture.rule.embeds


def test_requests_of_one_kind_have_no_policy_by_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pennyweight.search.mixture_question.refuse_lengths", lambda _: None)
    _, answer = run(tmp_path, question_of(tmp_path, "small", policies=("kind",)), FakeBench())
    assert answer.winner is Winner.LARGE and any("same instructions" in remark for remark in answer.remarks)
    with pytest.raises(UsageError, match="try --mix cluster"):
        refuse_mixture(question_of(tmp_path, "small", policies=("kind",)))


@pytest.mark.parametrize(
    "change, fault, sentence",
    [
        ({"policies": ("rooter",)}, UsageError, "--mix rooter is unknown"),
        ({"workload": Workload("few", requests(40))}, WorkloadError, "takes .* independent requests"),
        ({"limit": Limit(0.001)}, WorkloadError, "bring about"),
        (
            {"judge": True, "workload": Workload("bare", tuple(replace(r, scorer=None) for r in requests()))},
            WorkloadError,
            "label at least",
        ),
    ],
)
def test_bad_questions_are_refused_before_anything_is_asked(
    tmp_path: Path, change: dict[str, Any], fault: type[Exception], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pennyweight.search.mixture_question.refuse_lengths", lambda _: None)
    with pytest.raises(fault, match=sentence):
        refuse_mixture(question_of(tmp_path, "small", **change))
    with pytest.raises(UsageError, match="--also"):
        refuse_mixture(question_of(tmp_path))
    two = question_of(tmp_path, "small")
    with pytest.raises(UsageError, match="--rounds 3 or more"):
        refuse_mixture(replace(two, first=replace(two.first, rounds=2)))
    with pytest.raises(WorkloadError, match="nothing to judge"):
        refuse_mixture(replace(two, judge=True))


def written(tmp_path: Path, bench: FakeBench) -> tuple[Path, MixtureAnswer]:
    """A directory as `pw optimize --mix` leaves it."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    search, answer = run(tmp_path, question_of(model, "small"), bench)
    place = tmp_path / "out"
    place.mkdir()
    evidence = mixture_result.gather(search, answer, detect())
    mixture_result.write(place, evidence, answer.service)
    write_mixture(place / "report.html", evidence, mixture_result.sentences(evidence, None))
    return place, answer


def test_what_is_written_reads_as_it_was(tmp_path: Path) -> None:
    place, answer = written(tmp_path, FakeBench())
    service = formats.read_service(place)
    assert service.mixtures == answer.service.mixtures and service.routes == answer.service.routes
    evidence = formats.read("mixture", place / "mixture.json")
    assert evidence.winner is Winner.MIXTURE and len(evidence.held_out) == COUNT // 2 and evidence.thresholds
    page = (place / "report.html").read_text()
    assert "cascade, certified" in page and "{{" not in page
    assert calibration.read_mixed(place).mixture == answer.mixture
    json.dumps(mixture_result.summary(evidence, place / "report.html"))


def test_a_certificate_of_another_pair_is_refused(tmp_path: Path) -> None:
    place, _ = written(tmp_path, FakeBench())
    file = place / "service.json"
    described = json.loads(file.read_text())
    described["members"]["small"]["model_id"] = "another"
    file.write_text(json.dumps(described))
    with pytest.raises(Exception, match=r"was certified on .* restore service.json"):
        formats.read_service(place)


def test_a_threshold_that_was_edited_is_refused(tmp_path: Path) -> None:
    place, _ = written(tmp_path, FakeBench())
    file = place / "service.json"
    described = json.loads(file.read_text())
    (mixture,) = described["mixtures"].values()
    mixture["rule"]["threshold"] += 0.5
    file.write_text(json.dumps(described))
    with pytest.raises(Exception, match="not the one that its certificate allows"):
        formats.read_service(place)


def test_the_race_begins_with_no_chosen_kind_of_requests(tmp_path: Path) -> None:
    """Copies of a prompt come first in the order that the halves were made by: a race that began with them would judge
    a model by these alone."""
    copies = tuple(
        replace(request, prompt=f"copy {n // 5}" if n < 500 else request.prompt)
        for n, request in enumerate(requests(2000))
    )
    question = question_of(tmp_path, "small", workload=Workload("copies", copies))
    search = MixtureSearch(
        question, FakeMembers(), FakeBench(), OutcomeMatrix(tmp_path / "o.jsonl"), Quiet(), embed=None
    )  # type: ignore[arg-type]
    units = clusters(search.held_out.requests)
    order = sorted(set(units.values()), key=search._place)
    several = {name for name in order if list(units.values()).count(name) > 1}
    share = len(several) / len(order)
    assert abs(len(several & set(order[:200])) / 200 - share) < 0.08


@pytest.mark.parametrize("name", ["reference", "served"])
def test_no_name_of_a_model_is_taken_for_the_reference(tmp_path: Path, name: str) -> None:
    SPEEDS[name] = 8.0

    class Worse(FakeBench):
        def _outcome(self, member: str, request: Request) -> Outcome:
            return replace(super()._outcome(member, request), score=0.0 if member == name else 1.0)

    _, answer = run(tmp_path, question_of(tmp_path, name, policies=()), Worse())
    assert answer.winner is Winner.LARGE


def test_a_search_goes_on_with_the_same_question_only(tmp_path: Path) -> None:
    question = question_of(tmp_path, "small")
    file = tmp_path / "members.jsonl"
    Members(file, question.as_json(), Quiet(), detect(), resume=False)
    Members(file, question.as_json(), Quiet(), detect(), resume=True)
    other = replace(question, limit=Limit(0.1))
    with pytest.raises(UsageError, match="another max_degradation"):
        Members(file, other.as_json(), Quiet(), detect(), resume=True)


def test_a_calibration_leaves_out_what_the_rule_was_fitted_on(tmp_path: Path) -> None:
    place, _ = written(tmp_path, FakeBench())
    with pytest.raises(WorkloadError, match="fitted on these very requests"):
        mixed = calibration.read_mixed(place)
        half = Workload("made", requests()).split(0)[0]
        calibration.calibrate(place, half, None, stage=lambda _: None)
    assert mixed.evidence.tuned_on


def test_too_few_for_all_rules_is_said_before_anything_is_asked(tmp_path: Path) -> None:
    one = needed(question_of(tmp_path, "small", policies=("router",)))
    all_rules = needed(question_of(tmp_path, "small", policies=("router", "cascade", "both")))
    assert needed(question_of(tmp_path, "small", policies=())) < all_rules and one <= all_rules
