"""The command: servers around the play, the report after it."""

from __future__ import annotations

import os
import time
from pathlib import Path

from mqworker.cli.demo.plan import Planned, load
from mqworker.cli.demo.play import Play
from mqworker.cli.demo.report import Outcome, facts, report
from mqworker.cli.migrate import bring_up
from mqworker.cli.running import ended_by_signals, run
from mqworker.cli.talk import put_json, say
from mqworker.devserver import DevServers
from mqworker.settings import load_settings

# The one setting of the user's that the demo heeds: which kind of server to start.
_KEPT = "MQWORKER_DEVSERVER"


def show(file: Path | None, *, as_json: bool) -> int:
    """Run the demo; the exit code."""
    _forget_settings()
    with ended_by_signals() as ending:
        try:
            plan = run(load(file, default_max_retries=load_settings(_env_file=None).max_retries))
            outcome = _play(plan)
        except KeyboardInterrupt:
            say("stopped; nothing is left running")
            return ending.exit_code
    if as_json:
        put_json(facts(outcome))
    else:
        report(outcome)
    return 1 if outcome.problems else 0


def _forget_settings() -> None:
    """The demo must not touch a database that the user's environment names, nor run at his pace."""
    for name in list(os.environ):
        if name.startswith("MQWORKER_") and name != _KEPT:
            del os.environ[name]


def _play(plan: list[Planned]) -> Outcome:
    say("starting PostgreSQL, Redis and a gateway in a folder that is thrown away ...")
    began = time.monotonic()
    with DevServers() as servers:
        settings = load_settings(_env_file=None, database_url=servers.database_url, redis_url=servers.redis_url)
        bring_up(settings.database_url.get_secret_value())
        assert servers.state_folder is not None
        say(f"up and migrated in {time.monotonic() - began:.1f} s")
        return run(Play(plan, settings, servers.state_folder).run())
