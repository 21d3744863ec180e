"""`mqworker migrate`, and what `worker`, `dev` and `demo` need of it."""

from __future__ import annotations

import typer
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from mqworker.cli.talk import put, put_json
from mqworker.errors import ConfigError, SchemaBehind
from mqworker.migrate import downgrade, engine_for, newest_revision, upgrade
from mqworker.models import VERSION_TABLE
from mqworker.settings import load_settings
from mqworker.store import translated_errors


def go_to(revision: str, *, may_delete: bool, as_json: bool) -> None:
    """Move the schema to ``revision`` and print from where to where."""
    database_url = load_settings().database_url.get_secret_value()
    if not database_url:
        raise ConfigError("MQWORKER_DATABASE_URL must be set: postgresql://user:password@host:5432/name")
    target = _resolved(revision)
    before = current_revision(database_url)
    if _is_below(target, before):
        if not may_delete:
            raise typer.BadParameter(
                f"going down from {before} to {target or 'base'} deletes data: add --yes", param_hint="--to"
            )
        with translated_errors():
            downgrade(database_url, target or "base")
    else:
        bring_up(database_url, target)
    after = current_revision(database_url)
    if as_json:
        put_json({"before": before, "after": after, "head": after == newest_revision()})
    else:
        put(_story(before, after))


def bring_up(database_url: str, revision: str = "head") -> None:
    """Migrate up; an unreachable server comes out as :class:`StorageUnavailable`."""
    with translated_errors():
        upgrade(database_url, revision)


def current_revision(database_url: str) -> str:
    """The schema's revision; empty where there is none."""
    engine = engine_for(database_url)
    try:
        with translated_errors(), engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
            return context.get_current_revision() or ""
    finally:
        engine.dispose()


def _story(before: str, after: str) -> str:
    place = " (head)" if after == newest_revision() else ""
    if before == after:
        return f"already at {'head: ' if place else ''}{after or 'nothing'}"
    return f"{before or 'nothing'} -> {after or 'nothing'}{place}"


def _scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", "mqworker:migrations")
    config.set_main_option("path_separator", "os")
    return ScriptDirectory.from_config(config)


def _resolved(revision: str) -> str:
    """The full id of a revision (empty for base)."""
    try:
        script = _scripts().get_revision(revision)
    except CommandError:
        known = ", ".join(script.revision for script in reversed(list(_scripts().walk_revisions())))
        raise typer.BadParameter(f"there is no revision {revision!r}: there are {known}", param_hint="--to") from None
    return script.revision if script else ""


def _is_below(target: str, current: str) -> bool:
    order = ["", *reversed([script.revision for script in _scripts().walk_revisions()])]
    if current not in order:
        raise SchemaBehind(f"the database schema is at {current}, which this code does not know: upgrade mqworker")
    return order.index(target) < order.index(current)
