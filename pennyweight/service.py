"""Service: what a user runs. Members behind one gateway, mixtures of them, the names that clients call them by, caches
and replicas.

A deployment is a service of one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pennyweight.deployment import Deployment
from pennyweight.errors import UsageError
from pennyweight.mixture import Mixture
from pennyweight.model import canonical_hash

LOCAL = "local"
DEFAULT_NAME = "model"
MAX_REPLICAS = 1024
LEAST_LIMIT = 1e-3  # of wrong similar answers


@dataclass(frozen=True)
class SimilarPolicy:
    """Answers to similar questions. At most `limit` of these hits may be wrong, with this confidence; 0 is off. In
    `shadow` nothing is served, and everything is judged. `explored` is the share of would-be hits that the model
    answers anyway, which shows how many are wrong. `ttl_seconds` 0 is the cache's own. `embedding` is a directory,
    empty for the one of pennyweight[similar]; questions with a word or phrase of `never` are always asked. `compared`
    says how two answers are compared (mixing/agreement.py); empty: as JSON where a request asks for it, else as
    text. With `verify` the served model is asked whether both questions have the same answer, where the gate is not
    sure. `lifetimes` are seconds by a word or phrase: answers to questions with it live no longer than that."""

    limit: float = 0.0
    confidence: float = 0.95
    shadow: bool = False
    explored: float = 0.05
    ttl_seconds: float = 0.0
    embedding: str = ""
    never: tuple[str, ...] = ()
    compared: str = ""
    verify: bool = False
    lifetimes: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in (("", self.limit), ("-confidence", self.confidence), ("-explored", self.explored)):
            if not 0 <= value < 1:
                raise UsageError(f"--cache-similar{name} {value:g} is not possible: use a share from 0 to below 1.")
        if 0 < self.limit < LEAST_LIMIT:
            raise UsageError(f"--cache-similar {self.limit:g} takes millions of labels: use {LEAST_LIMIT:.2%} or more.")
        for phrase, seconds in self.lifetimes.items():
            if not phrase.strip() or not seconds > 0:
                raise UsageError(
                    f"--cache-similar-ttl {phrase}:{seconds:g} is not possible: write a word or phrase and seconds "
                    "above 0, as price:3600."
                )
        if self.limit and not self.explored:
            raise UsageError("--cache-similar-explored 0 would watch nothing: use a share above 0, such as 5%.")


@dataclass(frozen=True)
class CachePolicy:
    """Cache of answers to equal requests, and by `similar` to similar ones. `place` is a file for SQLite, or redis://…;
    empty keeps none."""

    place: str = ""
    ttl_seconds: float = 3600.0
    max_bytes: int = 2**30
    similar: SimilarPolicy = field(default_factory=SimilarPolicy)

    def __post_init__(self) -> None:
        if self.max_bytes < 2**20:
            raise UsageError(f"--cache-size {self.max_bytes} is not possible: use 1MiB or more.")
        if not self.ttl_seconds > 0:
            raise UsageError(f"--cache-ttl {self.ttl_seconds:g} is not possible: use a number of seconds above 0.")
        if self.similar.limit and not self.place:
            raise UsageError("--cache-similar keeps its answers in the cache: add --cache FILE.")


@dataclass(frozen=True)
class Service:
    """`members` by name. `routes` maps the model name of a request to the member, or to the one of `mixtures`, that
    answers it; a request that names none goes to the first. `replicas` counts engine processes by member (default 1).
    `placement` says where a member runs: `local` (this machine) is the only choice so far."""

    members: Mapping[str, Deployment]
    routes: Mapping[str, str]
    replicas: Mapping[str, int] = field(default_factory=dict)
    cache: CachePolicy = field(default_factory=CachePolicy)
    placement: Mapping[str, str] = field(default_factory=dict)
    mixtures: Mapping[str, Mixture] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.members or not self.routes:
            raise UsageError("A service needs a member and a name to call it by: give `members` and `routes`.")
        empty = [name for name in (*self.members, *self.routes) if not name.strip()]
        if empty:
            raise UsageError("A member or a route has an empty name: give it one that clients can send as `model`.")
        self._check_mixtures()
        mixed = [name for one in self.mixtures.values() for name in (one.small, one.large)]
        for what, names in (
            ("routes", set(self.routes.values()) - set(self.mixtures)),
            ("mixtures", mixed),
            ("replicas", self.replicas),
            ("placement", self.placement),
        ):
            unknown = sorted(set(names) - set(self.members))
            if unknown:
                known = ", ".join(self.members)
                raise UsageError(f"The service's {what} name {', '.join(unknown)}, which is no member: it has {known}.")
        unreachable = sorted({*self.members, *self.mixtures} - {*self.routes.values(), *mixed})
        if unreachable:
            raise UsageError(f"No route leads to {', '.join(unreachable)}: add one, or leave the member out.")
        for member, count in self.replicas.items():
            if not 1 <= count <= MAX_REPLICAS:
                raise UsageError(f"--replicas {count} of {member} is not possible: use 1 to {MAX_REPLICAS}.")
        elsewhere = sorted({place for place in self.placement.values() if place != LOCAL})
        if elsewhere:
            raise UsageError(f"Members cannot be placed at {', '.join(elsewhere)}: this release knows {LOCAL} only.")

    def _check_mixtures(self) -> None:
        """Each is what was certified."""
        both = sorted(set(self.mixtures) & set(self.members))
        if both:
            raise UsageError(f"{both[0]} is the name of a member and of a mixture: rename one.")
        for name, mixture in self.mixtures.items():
            found = [self.members.get(member) for member in (mixture.small, mixture.large)]
            here = tuple(member.id for member in found if member is not None)
            if len(here) == 2 and here != mixture.pair:
                raise UsageError(
                    f"The mixture {name} was certified on {' and '.join(mixture.pair)}, and its members are "
                    f"{' and '.join(here)}: restore service.json, or certify this pair with `pw calibrate`."
                )

    @staticmethod
    def of(
        deployment: Deployment, names: Sequence[str] = (), *, replicas: int = 1, cache: CachePolicy | None = None
    ) -> Service:
        """A service of one, called by these names; by default the model's own."""
        called = tuple(names) or (deployment.model_name or DEFAULT_NAME,)
        if not all(name.strip() for name in called):
            raise UsageError("--served-model-name is empty: give the name that clients will send as `model`.")
        member = called[0]
        return Service({member: deployment}, dict.fromkeys(called, member), {member: replicas}, cache or CachePolicy())

    @property
    def names(self) -> tuple[str, ...]:
        """The model names that clients may send, the default first."""
        return tuple(self.routes)

    def names_of(self, member: str) -> tuple[str, ...]:
        """The names that a member is called by: its routes, and those of its mixtures."""
        mine = {member, *(name for name, one in self.mixtures.items() if member in (one.small, one.large))}
        return tuple(name for name, other in self.routes.items() if other in mine)

    def member_for(self, name: str | None) -> str | None:
        """The member that answers requests for this model name, of a mixture the large one; None for an unknown
        name."""
        found = self._route(name)
        mixture = self.mixtures.get(found) if found else None
        return mixture.large if mixture else found

    def mixture_for(self, name: str | None) -> str | None:
        """The mixture that answers requests for this model name; None where a member does."""
        found = self._route(name)
        return found if found in self.mixtures else None

    def _route(self, name: str | None) -> str | None:
        return next(iter(self.routes.values())) if not name else self.routes.get(name)

    def replicas_of(self, member: str) -> int:
        return self.replicas.get(member, 1)

    @property
    def only(self) -> Deployment | None:
        """The deployment of a service of one."""
        return next(iter(self.members.values())) if len(self.members) == 1 else None

    @property
    def id(self) -> str:
        """Depends on what is served under which name, not on paths or cache settings."""
        members = {name: deployment.id for name, deployment in self.members.items()}
        mixtures = {name: repr(one) for name, one in self.mixtures.items()}
        what: dict[str, object] = {"members": members, "routes": dict(self.routes)}
        return canonical_hash(what | ({"mixtures": mixtures} if mixtures else {}))

    @property
    def label(self) -> str:
        """Short enough for a table row."""
        parts = []
        for name, deployment in self.members.items():
            count = self.replicas_of(name)
            parts.append((f"{count} x " if count > 1 else "") + deployment.label)
        mixed = [f"{one.rule.name} of {one.small} and {one.large}" for one in self.mixtures.values()]
        return " + ".join(parts) + (f" ({', '.join(mixed)})" if mixed else "")

    def with_settings(self, settings: Mapping[str, object]) -> Service:
        """This service with some engine settings changed; only for a service of one."""
        if self.only is None:
            raise UsageError("--set changes the settings of a service with one member: edit service.json instead.")
        changed = replace(self.only, settings={**self.only.settings, **settings})
        return replace(self, members={next(iter(self.members)): changed})
