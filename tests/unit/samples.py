"""A message for the executors' and the life cycle's tests, and a secret that none of them may show."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from mqworker.message import Message

SECRET = "pa55word"
MESSAGE = Message(
    id=UUID("0192f0a1-7b2c-7d3e-8f40-123456789abc"),
    instance="account-1",
    client_id=7,
    chat_id="5511999998888@s.whatsapp.net",
    payload={"text": "Olá 😀"},
    is_group=False,
    executor="default",
    priority=0,
    retry_count=1,
    max_retries=3,
    created_at=datetime(2030, 1, 1, tzinfo=UTC),
)
