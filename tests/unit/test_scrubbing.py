"""What an executor's exception may carry, and the row's ``error`` must not."""

from __future__ import annotations

import json
import time

import pytest

from mqworker.lifecycle import clean_text

SECRET = "pa55w0rd-c4nary"
EAA = "EAAGm0PX4ZCpsBAKZBZpa55w0rd"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJwYTU1dzByZCJ9.pa55w0rd-_sig"

NESTED = json.dumps({"error": json.dumps({"access_token": SECRET, "code": 190})})


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {SECRET}",
        f"authorization: bearer {SECRET}",
        f"Authorization: Basic {SECRET}",
        f"Authorization: Token {SECRET}",
        f"Authorization: ApiKey {SECRET}",
        f"Authorization: {SECRET}",
        f"Authorization: {SECRET} is wrong",
        f"Proxy-Authorization: Token {SECRET}",
        f"{{'Authorization': 'Token {SECRET}', 'Accept': '*/*'}}",
        f'{{"Authorization": "Bearer {SECRET}"}}',
        f"Cookie: session={SECRET}; other=1",
        f"Set-Cookie: session={SECRET}",
        f"got a 401 for Bearer {SECRET}, try again",
        f"the token {EAA} has expired",
        f"https://graph.example/v1/messages?access_token={EAA}",
        f"the session {JWT} has expired",
        f"postgresql://bot:{SECRET}@db/x",
        f"rediss://default:{SECRET}@cache:6380/0",
        f"https://{SECRET}@gateway/send",
        f"POST https://gateway/send?key={SECRET}&to=1",
        f"POST https://gateway/send?to=1&sig={SECRET}",
        f"client_secret={SECRET}",
        f"X-Api-Key: {SECRET}",
        NESTED,
        repr(NESTED),
    ],
)
def test_no_secret_is_left(text: str) -> None:
    cleaned = clean_text(text)
    assert "pa55w0rd" not in cleaned
    assert "***" in cleaned


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("5511999998888-1600000000@g.us has no such member", "<number>@g.us has no such member"),
        ("120363041234567890@g.us is full", "120363041234567890@g.us is full"),
        ("HTTP 401: authorization failed, code 190", "HTTP 401: authorization failed, code 190"),
        ("the key of the basic plan", "the key of the basic plan"),
        ('{"key": "status", "value": 3}', '{"key": "status", "value": 3}'),
        ("Authorization: Bearer abcdef123 was refused with 401", "Authorization: Bearer *** was refused with 401"),
    ],
)
def test_what_tells_no_secret_is_kept(text: str, cleaned: str) -> None:
    assert clean_text(text) == cleaned


@pytest.mark.parametrize(
    "text",
    ["authorization", "authorization:", "cookie='", "eyJ", "eyJaaaaaaaa.", "&key=", "token\\", "\\", "5511999998888-"],
)
def test_a_huge_error_does_not_hold_up_the_loop(text: str) -> None:
    start = time.process_time()
    clean_text(text * 1_000_000)
    assert time.process_time() - start < 0.25
