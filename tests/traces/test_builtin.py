"""Our own workloads: large enough, without duplicates, and every label can be got right and wrong."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from itertools import pairwise

import pytest

from pennyweight import traces
from pennyweight.measure.scorers import is_right
from pennyweight.workload import SCORERS, Request

CHAT, EXTRACT, TASKS = (traces.load(name).requests for name in ("chat", "extract", "tasks"))
GAP = r"[\s\S]*"  # between the parts of an extraction's pattern


def text_of(request: Request) -> str:
    return "\n".join(message["content"] for message in request.messages)


@pytest.mark.parametrize("name", traces.BUILTIN)
def test_no_prompt_and_no_id_is_there_twice(name: str) -> None:
    requests = traces.load(name).requests
    for key in (lambda r: r.id, lambda r: text_of(r).casefold()):
        assert [value for value, count in Counter(map(key, requests)).items() if count > 1] == []


@pytest.mark.parametrize("name", traces.BUILTIN)
def test_every_conversation_takes_turns_and_ends_with_a_question(name: str) -> None:
    for request in traces.load(name).requests:
        roles = [message["role"] for message in request.messages]
        turns = roles[1:] if roles[0] == "system" else roles
        assert turns == [("user", "assistant")[i % 2] for i in range(len(turns))], request.id
        assert len(turns) % 2 == 1, request.id
        assert all(message["content"].strip() for message in request.messages), request.id
        assert 1 <= request.max_tokens <= 1024, request.id


@pytest.mark.parametrize("name", traces.BUILTIN)
def test_a_built_in_workload_can_be_split(name: str) -> None:
    tuning, held_out = traces.load(name).split()
    assert min(len(tuning.requests), len(held_out.requests)) >= 0.35 * len(traces.load(name).requests)


def test_chat_is_large_and_has_conversations_of_several_turns() -> None:
    assert len(CHAT) >= 120
    assert sum(len([m for m in r.messages if m["role"] == "user"]) > 1 for r in CHAT) >= 20
    assert sum(r.messages[0]["role"] == "system" for r in CHAT) >= 10


def test_chat_goes_on_within_a_session() -> None:
    sessions = defaultdict(list)
    for request in CHAT:
        sessions[request.session].append(request.messages)
    longer = [turns for turns in sessions.values() if len(turns) > 1]
    assert len(longer) >= 5
    for turns in longer:
        for before, after in pairwise(turns):
            assert after[: len(before)] == before


def test_extract_asks_several_things_of_each_document() -> None:
    sessions = defaultdict(list)
    for request in EXTRACT:
        sessions[request.session].append(text_of(request))
    assert len(sessions) >= 10
    for prompts in sessions.values():
        assert len(prompts) >= 2
        documents = {prompt.rsplit("\n\nQuestion:", 1)[0] for prompt in prompts}
        assert len(documents) == 1
        assert len(documents.pop()) > 1000


def stands_in_document(request: Request) -> bool:
    document = text_of(request).rsplit("\n\nQuestion:", 1)[0]
    reference = request.reference or ""
    if request.scorer == "contains":
        return reference.casefold() in document.casefold()
    if request.scorer == "regex":
        return all(re.search(part, document) for part in reference.split(GAP))
    number = rf"(?<![\d.]){re.escape(reference)}(?!\d)"
    return any(re.search(number, text) for text in (document, re.sub(r"(?<=\d),(?=\d{3})", "", document)))


def test_what_extract_asks_for_stands_in_its_document() -> None:
    assert {r.scorer for r in EXTRACT} == {"contains", "regex", "numeric"}
    assert [(r.id, r.reference) for r in EXTRACT if not stands_in_document(r)] == []


def test_tasks_are_many_of_several_kinds() -> None:
    kinds = Counter(r.kind for r in TASKS)
    assert len(TASKS) >= 200
    assert len(kinds) >= 6
    assert min(kinds.values()) >= 20


def test_every_task_and_extraction_is_labelled_for_a_known_scorer() -> None:
    assert [r.id for r in TASKS + EXTRACT if not (r.labelled and r.scorer in SCORERS)] == []


def test_no_label_takes_nonsense_for_right() -> None:
    assert [(r.id, r.reference) for r in TASKS + EXTRACT if is_right("", r) or is_right("\u2603", r)] == []


def test_every_label_takes_its_own_reference_for_right() -> None:
    for request in (r for r in TASKS + EXTRACT if r.scorer != "regex"):
        assert is_right(request.reference or "", request), request.id
        assert is_right(f" {request.reference}.\n", request), request.id


def test_of_the_choices_exactly_the_reference_is_right() -> None:
    requests = [r for r in TASKS if r.scorer == "choice"]
    assert requests
    for request in requests:
        assert len(request.choices) >= 2, request.id
        assert [c for c in request.choices if is_right(c, request)] == [request.reference], request.id


def test_no_answer_is_right_for_most_questions_of_a_kind() -> None:
    for kind in {r.kind for r in TASKS}:
        choices = [r for r in TASKS if r.kind == kind and r.scorer == "choice"]
        for answer in {r.reference or "" for r in choices}:
            assert sum(is_right(answer, r) for r in choices) <= 0.7 * len(choices), (kind, answer)


def test_support_asks_eighty_things_in_five_ways_each_of_which_its_handbook_says() -> None:
    requests = traces.load("support").requests
    assert Counter(Counter(request.id[:10] for request in requests).values()) == {5: 80}
    for request in requests:
        handbook = request.messages[0]["content"]
        assert re.search(rf"\b{request.reference}\b", handbook), request.id
        assert request.reference not in request.messages[1]["content"], f"{request.id} gives its answer away"
