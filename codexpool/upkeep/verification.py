"""Finds out the owner of a token, and the origin of the owner's workspace."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from codexpool.config.model import IdentitySpec
from codexpool.credentials import PREFIX, Credential, Renewal
from codexpool.credentials.agent import Agent
from codexpool.credentials.authapi import AuthApi, RefusedError, UndiscoveredError, Whoami
from codexpool.credentials.oauth import OAuth
from codexpool.pool.confirmation import DISCOVERY
from codexpool.pool.identity import Evidence, IdentityKey, Metadata, Word
from codexpool.protocol.discovery import NotListedError
from codexpool.tokens.agent_key import AgentTask
from codexpool.tokens.bearer import Bearer
from codexpool.tokens.jwt import claims_of


@dataclass(frozen=True, slots=True)
class Verification:
    """Asks the backend once per call."""

    api: AuthApi

    async def owner(self, bearer: Bearer, credential: Credential, spec: IdentitySpec) -> Whoami:
        """Return the owner of a token: from whoami for a PAT, from the claims for a JWT, else from pool.toml.

        Where pool.toml names an owner, another one is `Word.OTHER_ACCOUNT`.
        """
        if isinstance(credential, Agent):
            answer = await credential.owner(bearer)
        elif bearer.token.startswith(PREFIX):
            answer = await self.api.whoami(bearer)
        else:
            evidence = Evidence(time.time(), fingerprint=bearer.fingerprint)
            answer = Whoami(Word.HEALTHY, evidence, _claimed(bearer, credential, spec))
        if answer.metadata is None:
            return answer
        return expected(answer, spec.owner)

    async def place(
        self, answer: Whoami, bearer: Bearer, by_other_means: bool, before: Metadata | None = None
    ) -> Whoami:
        """Return the answer with the origin of the workspace, from routing discovery.

        A 401 there condemns a token that only its own claims have vouched for so far; after a vouch
        ``by_other_means`` it is about the endpoint. Without a usable answer, the place in ``before`` (the identity's
        metadata until now) stays. For an agent, Codex does not ask.
        """
        metadata = answer.metadata
        if metadata is None or isinstance(bearer, AgentTask):
            return answer
        is_placed = before is not None and before.key == metadata.key
        if before is not None and is_placed:
            metadata = replace(metadata, origin=before.origin, routing_override=before.routing_override)
            answer = answer._replace(metadata=metadata)
        try:
            metadata = await self.api.routing(bearer, metadata)
        except (UndiscoveredError, NotListedError) as error:
            if is_placed:
                return answer
            if isinstance(error, UndiscoveredError):
                return Whoami(Word.UNREACHABLE, replace(answer.evidence, note=str(error)))
            note = f"{error} {metadata.account_id}: this login has lost its workspace"
            evidence = replace(answer.evidence, method="GET", path=DISCOVERY, status=200, note=note)
            return Whoami(Word.OTHER_ACCOUNT, evidence)
        except RefusedError:
            if by_other_means:
                return answer
            return Whoami(Word.REFUSED, replace(answer.evidence, method="GET", path=DISCOVERY, status=401))
        return answer._replace(metadata=metadata)


def expected(answer: Whoami, key: IdentityKey) -> Whoami:
    """Return the answer, or `Word.OTHER_ACCOUNT` if the token has another owner than ``key``.

    An empty part of the key expects nothing, and a token that does not name its owner contradicts nothing.
    """
    metadata = answer.metadata
    if metadata is None or all(
        want == have or not (_is_known(want) and _is_known(have))
        for want, have in zip(key, metadata.key, strict=True)
    ):
        return answer
    note = f"its token is of account {metadata.account_id}, user {metadata.user_id}; expected " + ", ".join(
        f"{what} {value}" for what, value in zip(("account", "user"), key, strict=True) if value
    )
    return Whoami(Word.OTHER_ACCOUNT, replace(answer.evidence, note=note))


def of_its_login(answer: Whoami, renewal: Renewal, spec: IdentitySpec) -> Whoami:
    """Return the answer, or `Word.OTHER_ACCOUNT` if the token endpoint gave tokens of another owner than the login's.

    At the very first start nothing else tells the expected owner. Where pool.toml names one, that counts.
    """
    if spec.account_id and spec.user_id:
        return answer
    answer = expected(answer, renewal.previous_owner)
    if answer.word is not Word.OTHER_ACCOUNT or not renewal.backup:
        return answer
    evidence = answer.evidence
    return answer._replace(evidence=replace(evidence, note=f"{evidence.note}; {renewal.backup}"))


def _is_known(part: str) -> bool:
    return part != "" and not part.startswith(UNKNOWN)


def _claimed(bearer: Bearer, credential: Credential, spec: IdentitySpec) -> Metadata:
    if isinstance(credential, OAuth) and credential.login.access == bearer:
        return credential.login.metadata
    try:
        claims = claims_of(bearer.token)
    except ValueError:
        claims = None
    account_id = (claims.account_id if claims else "") or spec.account_id or ""
    # A bearer that does not name its owner is an identity of its own.
    user_id = (claims.user_id if claims else "") or spec.user_id or f"{UNKNOWN}{spec.name}"
    if claims is None:
        return Metadata(account_id, user_id, "")
    return Metadata(account_id, user_id, claims.plan, claims.fedramp, email=claims.email)


UNKNOWN = "command:"  # The prefix of the made-up user id of a bearer that does not name its owner.
