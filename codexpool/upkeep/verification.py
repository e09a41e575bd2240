"""Whose a token is, and where that workspace is served from."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from codexpool.config.model import IdentitySpec
from codexpool.credentials import Credential, Renewal
from codexpool.credentials.authapi import AuthApi, RefusedError, UndiscoveredError, Whoami
from codexpool.credentials.oauth import OAuth
from codexpool.credentials.pat import PREFIX
from codexpool.pool.confirmation import DISCOVERY
from codexpool.pool.identity import Evidence, IdentityKey, Metadata, Word
from codexpool.protocol.discovery import NotListedError
from codexpool.tokens.bearer import Bearer
from codexpool.tokens.jwt import claims_of


class Verification:
    """Asks, once for each call. ``api`` is a task: its HTTP client takes its time to be there."""

    def __init__(self, api: asyncio.Task[AuthApi]) -> None:
        self._api = api

    async def owner(self, bearer: Bearer, credential: Credential, spec: IdentitySpec) -> Whoami:
        """Whose token it is: by whoami for a PAT, by its claims for a JWT, by pool.toml for any other.

        It has to be whose pool.toml says it is, where it says so.
        """
        if bearer.token.startswith(PREFIX):
            answer = await (await asyncio.shield(self._api)).whoami(bearer)
        else:
            evidence = Evidence(time.time(), fingerprint=bearer.fingerprint)
            answer = Whoami(Word.HEALTHY, evidence, _claimed(bearer, credential, spec))
        if answer.metadata is None:
            return answer
        return expected(answer, IdentityKey(spec.account_id or "", spec.user_id or ""))

    async def place(
        self, answer: Whoami, bearer: Bearer, by_other_means: bool, before: Metadata | None = None
    ) -> Whoami:
        """The same word with where the workspace is served from, which the backend says.

        A 401 there is the word on a token that only its claims have vouched for so far (``by_other_means`` is
        False); else it is the endpoint's. ``before`` is what was last known of the identity: where discovery gives no
        answer to go by, that stays in force.
        """
        if answer.metadata is None:
            return answer
        metadata = answer.metadata
        if before is not None and before.key == answer.metadata.key:
            metadata = replace(metadata, origin=before.origin, routing_override=before.routing_override)
            answer = answer._replace(metadata=metadata)
        else:
            before = None
        try:
            metadata = await (await asyncio.shield(self._api)).routing(bearer, metadata)
        except UndiscoveredError as error:
            if before is not None:
                return answer
            return Whoami(Word.UNREACHABLE, replace(answer.evidence, note=str(error)))
        except NotListedError as error:
            if before is not None:
                return answer
            note = f"{error} {metadata.account_id}: this login has lost its workspace"
            evidence = replace(answer.evidence, method="GET", path=DISCOVERY, status=200, note=note)
            return Whoami(Word.OTHER_ACCOUNT, evidence)
        except RefusedError:
            if by_other_means:
                return answer
            return Whoami(Word.REFUSED, replace(answer.evidence, method="GET", path=DISCOVERY, status=401))
        return answer._replace(metadata=metadata)


def expected(answer: Whoami, key: IdentityKey) -> Whoami:
    """The answer, or the word that this is not whose token it has to be.

    An empty part of the key expects nothing, and a token that does not say whose it is contradicts nothing.
    """
    metadata = answer.metadata
    if metadata is None or all(
        want == have or not (_says(want) and _says(have)) for want, have in zip(key, metadata.key, strict=True)
    ):
        return answer
    note = f"its token is of account {metadata.account_id}, user {metadata.user_id}; it was to be of " + ", ".join(
        f"{what} {value}" for what, value in zip(("account", "user"), key, strict=True) if value
    )
    return Whoami(Word.OTHER_ACCOUNT, replace(answer.evidence, note=note))


def of_its_login(answer: Whoami, renewal: Renewal, spec: IdentitySpec) -> Whoami:
    """The answer, or the word that the token endpoint gave the tokens of somebody else than the login was of.

    At the very first start nothing else says whose it has to be. What pool.toml says is binding, as ever.
    """
    if spec.account_id and spec.user_id:
        return answer
    answer = expected(answer, renewal.previous_owner)
    if answer.word is not Word.OTHER_ACCOUNT or not renewal.backup:
        return answer
    evidence = answer.evidence
    return answer._replace(evidence=replace(evidence, note=f"{evidence.note}; {renewal.backup}"))


def _says(part: str) -> bool:
    """Whether a part of a key says whose a token is."""
    return part != "" and not part.startswith(UNKNOWN)


def _claimed(bearer: Bearer, credential: Credential, spec: IdentitySpec) -> Metadata:
    """Whose a token is that whoami is not asked about."""
    if isinstance(credential, OAuth) and credential.login.access == bearer:
        login = credential.login
        return Metadata(login.account_id, login.user_id, login.plan, login.fedramp)
    try:
        claims = claims_of(bearer.token)
    except ValueError:
        claims = None
    account_id = (claims.account_id if claims else "") or spec.account_id or ""
    # A bearer that says nothing of its owner is an identity of its own, whatever it is called.
    user_id = (claims.user_id if claims else "") or spec.user_id or f"{UNKNOWN}{spec.name}"
    return Metadata(account_id, user_id, claims.plan if claims else "", bool(claims and claims.fedramp))


UNKNOWN = "command:"
"""How the user id of a bearer begins that does not say whose it is."""
