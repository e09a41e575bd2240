"""A backend that refuses, and a client in front of the pool: what one request changes, without a proxy."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

from codexpool.pool.identity import Asked, Identity, Status
from codexpool.pool.pool import Pool
from codexpool.pool.recovery import NobodyServes, Outcome, Relay, Try, attempts
from codexpool.pool.verdict import Verdict
from codexpool.proxy import judge
from codexpool.proxy.exchange import Attempt
from codexpool.proxy.judge import BackendAnswer
from codexpool.tokens.bearer import Bearer, fingerprint
from tests.pool.pools import NOW, vouch

COMPACT = "/backend-api/codex/responses/compact"
IMAGES = "/backend-api/codex/images/generations"


@dataclass
class Scene:
    """A pool, its time, and what comes of requests."""

    pool: Pool
    now: float = NOW

    def judged(self, identity: Identity, asked: Asked, said: BackendAnswer, body_model: str | None = None) -> Verdict:
        """What `codexpool.proxy.judge` makes of an answer, and has the pool learn, at the time of the scene."""
        assert identity.metadata is not None
        keeper: Any = SimpleNamespace(
            pool=self.pool, saw_usage=lambda key: None, learn_family=lambda model, family: None
        )
        token = f"at-test-{identity.name}"
        bearer = Bearer(token, fingerprint(token))
        attempt = Attempt(identity, bearer, identity.metadata, self.now, cast(Any, None))
        model = asked.model if body_model is None else body_model
        with patch.object(judge, "time", SimpleNamespace(time=lambda: self.now)):
            verdict, evidence = judge.judge(
                keeper.pool, asked, attempt, "POST", said, repeatable=True, lightens=False
            )
            judge.learn(keeper, asked, attempt, said, verdict, evidence, lambda: model)
        return verdict

    def request(
        self, asked: Asked, said: BackendAnswer, but: dict[str, BackendAnswer] | None = None
    ) -> tuple[Outcome, list[str]]:
        """A whole request that is refused everywhere in this way, but for some; how it ends, and who was asked."""
        tried: list[str] = []
        steps = attempts(self.pool, asked, lambda: self.now, lambda: self.now)
        verdict: Verdict | None = None
        for _ in range(200):
            try:
                step = steps.send(verdict)
            except StopIteration as end:
                return end.value, tried
            verdict = None
            if isinstance(step, Try):
                tried.append(step.identity.name)
                answer = (but or {}).get(step.identity.name, said)
                verdict = self.judged(step.identity, asked, answer)
                if 0 < answer.status < 400:
                    self.pool.succeeded(step.identity.name, self.now, True)
            else:
                self.now += step.seconds
        raise AssertionError("the request does not end")

    def heal(self) -> None:
        """Whoami finds every token healthy."""
        for identity in self.pool.identities.values():
            if identity.status is Status.SUSPECT:
                vouch(self.pool, identity.name, self.now)


GOOD = BackendAnswer(200)
__all__ = ["COMPACT", "GOOD", "IMAGES", "BackendAnswer", "NobodyServes", "Relay", "Scene"]
