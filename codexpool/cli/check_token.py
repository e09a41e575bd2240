"""A token looked at now: whose it is, and whether the backend takes it."""

from __future__ import annotations

import time

from codexpool.config import IdentitySpec
from codexpool.credentials import Credential, NoTokenAnyMoreError, NoTokenNowError, Renewal
from codexpool.credentials.authapi import Whoami
from codexpool.pool.identity import Evidence, Kind, Word
from codexpool.upkeep.verification import Verification, of_its_login


async def examined(
    spec: IdentitySpec, credential: Credential, verification: Verification, may_renew: bool = True
) -> Whoami:
    """The word on an identity's token.

    A command is run, and a login whose access token has ended is renewed, as a proxy would do it: under the lock,
    and written before it is used. A login that is refused is renewed once. Without ``may_renew`` none is.
    """
    try:
        bearer = credential.bearer()
        present = await _present(credential) if bearer is None or may_renew else Renewal(bearer, issued=False)
        answer = await _asked(spec, credential, present, verification)
        if answer.word is Word.REFUSED and credential.kind.is_renewable and may_renew:
            renewal = await credential.renewed(present.bearer, refused=True)
            if renewal is not None:
                answer = await _asked(spec, credential, renewal, verification, is_new=True)
    except NoTokenNowError as error:
        return Whoami(Word.UNREACHABLE, Evidence(time.time(), note=str(error)))
    except NoTokenAnyMoreError as error:
        return Whoami(Word.REFUSED, Evidence(time.time(), code=error.code, note=str(error)))
    return answer


async def _present(credential: Credential) -> Renewal:
    bearer, due_at = credential.bearer(), credential.due_at()
    if bearer is not None and (due_at is None or due_at > time.time()):
        return Renewal(bearer, issued=False)
    renewal = await credential.renewed(bearer, refused=False)
    if renewal is None:
        raise NoTokenNowError("there is no token")
    return renewal


async def _asked(
    spec: IdentitySpec, credential: Credential, token: Renewal, verification: Verification, is_new: bool = False
) -> Whoami:
    answer = of_its_login(await verification.owner(token.bearer, credential, spec), token, spec)
    return await verification.place(answer, token.bearer, by_other_means=is_new or credential.kind is Kind.PAT)
