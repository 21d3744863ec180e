"""What stands in the files for containers: docker-compose.yml, Dockerfile, .env.example."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).parents[1]
COMPOSE = ROOT / "docker-compose.yml"
ENVIRONMENT = ROOT / ".env.example"
VALUES = {"POSTGRES_PASSWORD": "pw1", "REDIS_PASSWORD": "pw2", "MQWORKER_WEBHOOK_URL": "https://gateway.example/send"}
"""What somebody fills into .env."""


class Instruction(NamedTuple):
    """One of the Dockerfile: ``USER 10001``."""

    word: str
    rest: str

    @property
    def command(self) -> list[str]:
        """Its command, in exec form: no shell stands between Docker's signals and us."""
        words: list[str] = json.loads(self.rest[self.rest.index("[") :])
        return words


def dockerfile() -> list[Instruction]:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [Instruction(*line.split(maxsplit=1)) for line in lines]


def last_stage() -> list[Instruction]:
    """What makes the image that is kept."""
    instructions = dockerfile()
    start = max(place for place, one in enumerate(instructions) if one.word == "FROM")
    return instructions[start:]


def the(word: str) -> Instruction:
    """The instruction of that name in the last stage, which has one."""
    (one,) = [one for one in last_stage() if one.word == word]
    return one


def image_environment() -> dict[str, str]:
    """What the image sets."""
    return dict(pair.split("=", 1) for pair in the("ENV").rest.split())


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return loaded


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose()["services"]
    return found


def filled_in(text: str, values: Mapping[str, str] = VALUES) -> str:
    """With its variables replaced, as Compose does it."""
    return re.sub(r"\$\{(\w+)(?::\?[^}]*)?\}", lambda found: values[found[1]], text)


def seconds(text: str) -> float:
    """A duration as Compose writes it: whole seconds here."""
    assert re.fullmatch(r"\d+s", text), text
    return float(text[:-1])
