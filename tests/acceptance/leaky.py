"""An application whose executor tells secrets in every way in which one fails."""

from __future__ import annotations

from mqworker import ExecutorRegistry, Message, PermanentError, RetryAfter

BEARER = "canaryBearer5d1f0c8e"
EAA = "EAAcanaryToken9b72e4f6a1"
USERINFO = "canaryUserinfo3c7a9e21"
TOKENS = (BEARER, EAA, USERINFO)

registry = ExecutorRegistry()


class Unreadable(Exception):
    def __str__(self) -> str:
        raise RuntimeError(f"Authorization: Bearer {BEARER}")


def failure(case: str) -> BaseException | None:
    """What is raised for this case; nothing for any other word."""
    chained = ValueError(f"401 for Bearer {BEARER}")
    chained.__cause__ = RuntimeError(f"token={BEARER}")
    failures: dict[str, BaseException] = {
        "header": RuntimeError(f"401: {{'Authorization': 'Bearer {BEARER}', 'Accept': '*/*'}}"),
        "scheme": RuntimeError(f"401: Authorization: Token {BEARER}"),
        "token": PermanentError(f"the token {EAA} has expired"),
        "url": OSError(f"cannot reach https://bot:{USERINFO}@gateway.example/send?access_token={EAA}"),
        "json": RuntimeError(f'the answer was {{"error": "{{\\"access_token\\": \\"{BEARER}\\"}}"}}'),
        "wait": RetryAfter(0.1, reason=f"wait, says https://{USERINFO}@gateway.example/"),
        "exit": SystemExit(f"password={USERINFO}"),
        "chained": chained,
        "unreadable": Unreadable(),
    }
    return failures.get(case)


@registry.executor("default")
async def send(message: Message) -> str:
    raised = failure(message.payload.get("case", ""))
    if raised is not None and not (isinstance(raised, RetryAfter) and message.id in _waited):
        _waited.add(message.id)
        raise raised
    return f"p-{message.id}"


_waited: set[object] = set()
