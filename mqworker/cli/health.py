"""`mqworker health`. Container checks run it every few seconds: what is slow to import is imported where needed."""

from __future__ import annotations

import json
import os
from typing import Annotated, Any

import typer

from mqworker.cli.talk import printable, put
from mqworker.errors import ConfigError

ANSWER_SECONDS = 3.0
LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - addresses that nobody can ask


def health(
    host: Annotated[str | None, typer.Option(help="Where the worker is (default: MQWORKER_PROBE_HOST).")] = None,
    port: Annotated[int | None, typer.Option(help="Its port (default: MQWORKER_PROBE_PORT).", min=1, max=65535)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Ask a worker whether it is ready.

    Exits with 0 if it is, or if it is degraded (Redis is away), else with 1. For container health checks; the worker
    needs MQWORKER_PROBE_PORT.

    \b
    Example:
      mqworker health
      mqworker health --port 9464 --json
    """
    found = _ask(*_address(host, port))
    if as_json:
        put(json.dumps(found))
    else:
        reasons = [f"{name}: {reason}" for name, reason in found["failing"].items()]
        put(printable(found["status"] + (f" ({'; '.join(reasons)})" if reasons else "")))
    if found["status"] not in ("ready", "degraded"):
        raise typer.Exit(1)


def _address(host: str | None, port: int | None) -> tuple[str, int]:
    host = host or os.environ.get("MQWORKER_PROBE_HOST")
    known = os.environ.get("MQWORKER_PROBE_PORT", "")
    port = port or (int(known) if known.isdecimal() else None)
    if port is None:
        # Perhaps in .env.
        from mqworker.settings import load_settings

        settings = load_settings()
        host, port = host or settings.probe_host, settings.probe_port
    if not port:
        raise ConfigError("the worker's port is not known: give --port, or set MQWORKER_PROBE_PORT to one (not to 0)")
    host = host or "127.0.0.1"
    return LOOPBACK.get(host, host), port


def _ask(host: str, port: int) -> dict[str, Any]:
    """What ``/readyz`` says; ``unreachable`` where nobody answers as a worker does."""
    from http.client import HTTPConnection, HTTPException

    connection = HTTPConnection(host, port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", "/readyz")
        found = json.loads(connection.getresponse().read(65_536))
        return {"status": str(found["status"]), "failing": dict(found["failing"])}
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
    except (HTTPException, ValueError, TypeError, KeyError):
        reason = "whoever answers there is no mqworker"
    finally:
        connection.close()
    return {"status": "unreachable", "failing": {"probe": f"{host}:{port}: {reason}"}}
