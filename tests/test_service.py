"""Service: members, the names that clients call them by, and what makes no sense together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pennyweight.deployment import Deployment
from pennyweight.errors import UsageError
from pennyweight.service import CachePolicy, Service

ONE = Deployment("openvino", "/models/a", "abc", "Q8_0", {"max_num_seqs": 8}, model_name="tiny")
TWO = Deployment("llamacpp", "/models/b", "def", "Q4_0")


def test_a_deployment_is_a_service_of_one_called_by_its_own_name() -> None:
    service = Service.of(ONE)
    assert service.names == ("tiny",) and service.only == ONE
    assert Service.of(TWO).names == ("model",)
    assert [service.member_for(name) for name in ("tiny", "", None, "other")] == ["tiny", "tiny", "tiny", None]


def test_names_are_aliases_of_one_member() -> None:
    service = Service.of(ONE, ("a", "b"), replicas=3)
    assert service.names_of(next(iter(service.members))) == ("a", "b")
    assert service.replicas_of("a") == 3 and service.label.startswith("3 x openvino")


def test_the_id_is_what_is_served_under_which_name() -> None:
    service = Service.of(ONE)
    assert replace(service, cache=CachePolicy("somewhere")).id == service.id
    assert Service.of(ONE, ("another",)).id != service.id
    assert Service.of(TWO).id != service.id


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"members": {}}, "member"),
        ({"routes": {}}, "name"),
        ({"routes": {"x": "nobody"}}, "nobody"),
        ({"replicas": {"nobody": 1}}, "nobody"),
        ({"replicas": {"a": 0}}, "--replicas 0"),
        ({"members": {"a": ONE, "b": TWO}}, "No route leads to b"),
        ({"placement": {"a": "the moon"}}, "the moon"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        Service(**{"members": {"a": ONE}, "routes": {"tiny": "a"}, **changes})


@pytest.mark.parametrize("policy", [{"max_bytes": 5}, {"ttl_seconds": 0.0}], ids=str)
def test_a_cache_needs_room_and_time(policy: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        CachePolicy("here", **policy)


def test_settings_are_changed_of_a_service_of_one() -> None:
    changed = Service.of(ONE).with_settings({"max_num_seqs": 2}).only
    assert changed is not None and changed.settings == {"max_num_seqs": 2}
    with pytest.raises(UsageError, match=r"service\.json"):
        Service({"a": ONE, "b": TWO}, {"x": "a", "y": "b"}).with_settings({})


@pytest.mark.parametrize(
    ("members", "routes"), [({"": ONE}, {"a": ""}), ({"a": ONE}, {" ": "a"}), ({"a": ONE}, {"": "a"})]
)
def test_a_name_that_nobody_can_send_is_refused(members: dict[str, Deployment], routes: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="empty name"):
        Service(members, routes)
