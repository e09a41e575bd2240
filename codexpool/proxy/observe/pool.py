"""The pool that observe mode consults: made from pool.toml and the state of earlier runs, and never served from.

Making it writes nothing, and calls no whoami, token endpoint, command or keyring. Where a serving pool would have to
(to verify a token, or renew one), that is assumed to succeed, and `Consulted.notes` says so.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from codexpool.common.clock_skew import Clock
from codexpool.config.model import FromAuthJson, FromCommand, FromKeyring, FromState, IdentitySpec, PoolConfig
from codexpool.config.sources import PendingError, Sources, resolve
from codexpool.credentials import Credential
from codexpool.credentials.agent import Agent
from codexpool.credentials.agent_api import AgentApi
from codexpool.credentials.authapi import Whoami
from codexpool.credentials.http_client import Route
from codexpool.credentials.oauth import OAuth
from codexpool.credentials.token_endpoint import TokenEndpoint
from codexpool.pool.identity import Condition, Evidence, Identity, Kind, Metadata, Status, Word, clock
from codexpool.pool.needs import described, is_of_workspace
from codexpool.pool.pool import Pool
from codexpool.pool.portability import TurnStates
from codexpool.pool.reasons import Candidacy
from codexpool.pool.states import IN_DOUBT, RETURNING
from codexpool.protocol import endpoints, headers
from codexpool.protocol.routes import host_of
from codexpool.redaction import describe_secret
from codexpool.state import Record, Snapshot, UnavailableError, record_name
from codexpool.state.location import Location, agents_folder
from codexpool.state.opening import read_state
from codexpool.tokens.agent_key import SCHEME, AgentTask
from codexpool.tokens.bearer import Bearer
from codexpool.upkeep.news import apply
from codexpool.upkeep.shared_logins import SharedLogins
from codexpool.upkeep.verification import UNKNOWN, expected

logger = logging.getLogger("codexpool")

NOT_KNOWN = "?"  # The fingerprint of an unknown token: this, and the name of its identity.


@dataclass(slots=True)
class Consulted:
    """The pool, with a note for each identity a serving pool would have to check first.

    It has no tokens, only their descriptions in ``tokens``.
    """

    pool: Pool = field(default_factory=Pool)
    notes: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    hosts: frozenset[str] = frozenset({endpoints.HOST})  # The backend's, and those identities are served from.
    turn_states: TurnStates = field(default_factory=TurnStates)  # The identity that would have got each turn state.

    def bearer(self, name: str) -> Bearer:
        """Return what stands for the token of an identity."""
        return Bearer(headers.PLACEHOLDER.format(name), self.pool.identities[name].fingerprint)

    def noted(self, candidacy: Candidacy) -> Candidacy:
        """Return a candidacy with the note on its identity."""
        note = self.notes.get(candidacy.name)
        return candidacy._replace(speaks_for=(*candidacy.speaks_for, note)) if note else candidacy

    def fields(self, name: str, fields: headers.Fields, for_stream: bool) -> headers.Fields:
        """Return a request's headers as they would be sent under an identity."""
        identity, placeholder = self.pool.identities[name], headers.PLACEHOLDER.format(name)
        metadata = identity.metadata
        assert metadata is not None
        # A serving pool would have the account id from whoami.
        account_id = metadata.account_id or ("" if identity.kind is Kind.COMMAND else placeholder)
        scheme = SCHEME if identity.kind is Kind.AGENT else "Bearer"
        authorization = f"{scheme} {self.tokens.get(identity.name, placeholder)}"
        values = headers.identity_values(authorization, account_id, metadata.fedramp, metadata.routing_override)
        keep_turn_state = self.turn_states.fit(fields, metadata.key)
        return headers.swapped(fields, values, keep_turn_state, host_of(metadata.origin).encode(), for_stream)

    def lines(self) -> list[str]:
        return [
            f"{i.name} {_described(i.condition, self.notes.get(i.name, ''))}"
            + (f": {described(i)}" if i.metadata is not None and is_known(i) else "")
            for i in self.pool.identities.values()
        ]


def is_known(identity: Identity) -> bool:
    return not identity.fingerprint.startswith(NOT_KNOWN)


def consult(config: PoolConfig, environ: Mapping[str, str], state: Location) -> Consulted:
    """Make the pool of a configuration as it would serve now. A problem with an identity is logged."""
    known, scope = read_state(state) or Snapshot(), state.scope(config.path)
    agents = AgentApi(Route(), environ, Clock(), partial(agents_folder, environ))
    logins = SharedLogins(_unwritten, environ)
    logins.learn(known.logins)
    resolved = resolve(config, Sources(environ, TokenEndpoint(Route(), environ), agents, logins, _unread))
    for problem in resolved.problems:
        logger.warning("%s", problem)
    specs = [s for s in config.identities if s.name in resolved.credentials or s.name in resolved.pending]
    now, consulted = time.time(), Consulted()
    pool = consulted.pool
    pool.states.breaker.most = config.breaker
    makers = [_Maker(scope, spec, resolved.credentials.get(spec.name), known, now) for spec in specs]
    pool.lists_none = not config.identities
    pool.replace_identities([maker.identity() for maker in makers], config.selection, now)
    pool.sessions.found(known.stored_sessions)
    apply(pool, known, scope)
    for maker in makers:
        maker.settle(consulted)
    origins = {metadata.origin for metadata in known.metadata.values()}
    consulted.hosts |= {host_of(origin) for origin in origins}
    return consulted


class _Maker:
    """Makes one identity from pool.toml and the state."""

    def __init__(
        self, scope: str, spec: IdentitySpec, credential: Credential | None, known: Snapshot, now: float
    ) -> None:
        self.spec, self.credential, self.known, self.now = spec, credential, known, now
        self.record: Record | None = known.records.get(record_name(scope, spec.name))
        self.fingerprint = self._fingerprint()

    def identity(self) -> Identity:
        """Return the identity, unverified."""
        return Identity(
            self.spec.name,
            self.credential.kind if self.credential is not None else self.spec.kind,
            self.fingerprint,
            Condition(Status.UNVERIFIED, self.now),
            expires_at=self.spec.expires_at,
            paused=self.spec.paused,
            priority=self.spec.priority,
        )

    def settle(self, consulted: Consulted) -> None:
        """Tell the pool what earlier runs found out; assume that the rest succeeds."""
        name, metadata = self.spec.name, self.known.metadata.get(self.fingerprint)
        bearer = self.credential.bearer() if self.credential is not None else None
        if bearer is not None and not isinstance(bearer, AgentTask):  # That one's would be signed for each request.
            consulted.tokens[name] = describe_secret(bearer.token).encode("ascii", "replace").decode()
        if (note := self._note(metadata)) and not self.spec.paused:
            consulted.notes[name] = note
        metadata = metadata or self._claimed()
        consulted.pool.states.recall(name, self.fingerprint, metadata, self.now)
        if (condition := self._condition(metadata)) is not None and not self.spec.paused:
            consulted.pool.states.condition_learned(name, self.fingerprint, condition)

    def _fingerprint(self) -> str:
        bearer = self.credential.bearer() if self.credential is not None else None
        if bearer is not None:
            return bearer.fingerprint
        # The token of a keyring or a command is not read, but an earlier run noted its fingerprint.
        return self.record.fingerprint if self.record is not None else f"{NOT_KNOWN}{self.spec.name}"

    def _note(self, metadata: Metadata | None) -> str:
        """Return what a serving pool would have to do first for this identity."""
        match self.spec.source:
            case FromCommand():
                return "its command was not run"
            case FromKeyring():
                return "its token was not read from the keyring"
            case _ if isinstance(self.credential, Agent) and self.credential.bearer() is None:
                return "a task has to be registered for it"
            case FromAuthJson() | FromState() if self.credential is not None and self.credential.is_over(self.now):
                return "its login has to be renewed"
        if metadata is None:
            return "not verified yet"
        return ""

    def _claimed(self) -> Metadata:
        """Return the metadata of an unverified identity, as far as its login, the state or pool.toml have it."""
        spec = self.spec
        if isinstance(self.credential, OAuth):
            return self.credential.login.metadata
        if isinstance(self.credential, Agent):
            return self.credential.identity.metadata
        if self.record is not None and self.record.fingerprint == self.fingerprint:
            return Metadata(self.record.key.account_id, self.record.key.user_id, "")
        return Metadata(spec.account_id or "", spec.user_id or f"{UNKNOWN}{spec.name}", "")

    def _condition(self, metadata: Metadata) -> Condition | None:
        """Return what keeps the identity from serving, by pool.toml and the state."""
        spec = self.spec
        if spec.flag is not None and spec.flag.token == f"sha256:{self.fingerprint}":
            since = spec.flag.since.timestamp()
            return Condition(Status.NEEDS_REPLACEMENT, since, evidence=Evidence(since, note=spec.flag.reason))
        answer = expected(Whoami(Word.HEALTHY, Evidence(self.now), metadata), spec.owner)
        if answer.word is Word.OTHER_ACCOUNT:
            return Condition(Status.CONFLICT, self.now, evidence=answer.evidence)
        condition = self.known.conditions.get(self.fingerprint)
        return condition if condition is not None and _still_applies(condition, self.now) else None


def _still_applies(condition: Condition, now: float) -> bool:
    """Return whether a condition of an earlier run still keeps an identity from serving.

    A doubt would be checked again. A pause is in pool.toml, unless it is because of the workspace.
    """
    if condition.status in RETURNING:
        return condition.until is not None and condition.until > now
    if condition.status is Status.PAUSED:
        return is_of_workspace(condition)
    return condition.status is not Status.READY and condition.status not in IN_DOUBT


def _described(condition: Condition, note: str) -> str:
    """Describe a condition; ``note`` is why READY is only assumed."""
    if condition.status is Status.READY:
        return f"is assumed to be ready ({note})" if note else "is ready"
    until = f" until {clock(condition.until, time.time())} UTC" if condition.until is not None else ""
    return f"is {condition.status}{until}" + (f" ({condition.evidence})" if condition.evidence is not None else "")


def _unwritten(work: Callable[[Any], Any]) -> Any:
    """Renew no login of the state."""
    raise UnavailableError("observing changes nothing", "serve with this pool")


def _unread(service: str, name: str) -> str:
    """Read no keyring: it may ask a person for a password."""
    raise PendingError
