"""Settings, read once at the edge (environment and ``.env``, prefix ``MQWORKER_``) and handed down frozen.

Combinations that cannot work are refused here, naming the inequality that they break, so that no room below
needs to doubt its numbers.
"""

from __future__ import annotations

import os
import re
from ipaddress import ip_address
from typing import Annotated, Any, Literal, Self
from urllib.parse import SplitResult, parse_qsl, urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.engine import make_url

from mqworker.errors import ConfigError

# PostgreSQL's interval overflows far above this, in the middle of a settle.
LONGEST_SECONDS = 366 * 86_400

Seconds = Annotated[float, Field(ge=0, le=LONGEST_SECONDS, allow_inf_nan=False)]
"""A duration in seconds; 0 is allowed."""
Span = Annotated[float, Field(gt=0, le=LONGEST_SECONDS, allow_inf_nan=False)]
"""A duration in seconds above 0."""
Period = Annotated[float, Field(ge=0.1, le=LONGEST_SECONDS, allow_inf_nan=False)]
"""How often something happens, in seconds; tenths of a second are allowed."""

# A task that ignores its cancellation keeps its claim this long before its worker is replaced.
CANCEL_GRACE_SECONDS = 5.0


class Settings(BaseSettings):
    """All of mqworker's settings. Immutable; secrets are not shown in its ``repr``.

    Use :func:`load_settings` to read them: it turns every refusal into one :class:`ConfigError`.
    """

    model_config = SettingsConfigDict(
        env_prefix="MQWORKER_",
        env_file=".env",
        env_file_encoding="utf-8",
        extra="ignore",
        frozen=True,
        # What a refused combination would show as its input is all of the settings, passwords too.
        hide_input_in_errors=True,
    )

    database_url: SecretStr = Field(
        default=SecretStr(""), description="PostgreSQL: postgresql://user:password@host:5432/name"
    )
    redis_url: SecretStr = Field(default=SecretStr(""), description="Redis: redis://host:6379/0, or rediss://")
    redis_cluster: bool = Field(default=False, description="Redis is a cluster, and redis_url names a node of it")
    arq_redis_url: SecretStr = Field(
        default=SecretStr(""), description="A plain Redis for arq, which workers need where redis_url is a cluster"
    )
    key_prefix: str = Field(
        default="mq", description="First word of every Redis key", pattern=r"^[A-Za-z0-9_.-]{1,32}$"
    )
    app: str = Field(default="", description="module:attribute of your ExecutorRegistry")
    webhook_url: SecretStr = Field(default=SecretStr(""), description="Where the executor `webhook` posts messages")

    max_chats: int = Field(default=1000, ge=1, le=100_000, description="Chats in flight per worker")
    delay_min_seconds: Seconds = Field(default=0.5, description="Smallest gap between two sends of a chat")
    delay_max_seconds: Seconds = Field(default=2.0, description="Largest gap between two sends of a chat")
    max_retries: int = Field(default=3, ge=1, le=100, description="Attempts in all, when a message does not say")
    backoff_base_seconds: Span = Field(default=2.0, description="Backoff after the first failure")
    backoff_cap_seconds: Span = Field(default=300.0, description="Largest backoff")
    executor_timeout_seconds: Span = Field(default=60.0, description="Longest attempt")

    lease_seconds: Period = Field(default=30.0, description="How long a claim lives without a renewal")
    renew_seconds: Period = Field(default=10.0, description="How often a worker renews its claims")
    reclaim_every_seconds: Period = Field(default=5.0, description="How often expired claims are taken back")
    reconcile_every_seconds: Period = Field(default=15.0, description="How often lost announces are looked for")
    stale_after_seconds: Period = Field(default=3600.0, description="Longest life of a claim, renewed or not")
    clean_every_hours: float = Field(
        default=6.0, gt=0, le=8_784, allow_inf_nan=False, description="How often old rows are removed"
    )
    retention_days: float = Field(
        default=7.0, gt=0, le=36_500, allow_inf_nan=False, description="How long finished rows are kept"
    )
    drain_seconds: Span = Field(default=70.0, description="How long SIGTERM waits for sends")
    probe_port: int | None = Field(
        default=None, ge=0, le=65_535, description="Port of /livez, /readyz, /metrics; 0 takes a free one and logs it"
    )
    # Empty would mean every address of the machine.
    probe_host: str = Field(default="127.0.0.1", description="Address of that port", pattern=r"^[^\s/]+$")

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(default="INFO", description="What a worker logs")
    log_json: bool = Field(default=False, description="Log JSON lines instead of lines for people")

    @field_validator("log_level", mode="before")
    @classmethod
    def _log_level_in_any_case(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("database_url", mode="after")
    @classmethod
    def _database_url_is_postgresql(cls, value: SecretStr) -> SecretStr:
        return SecretStr(_database_url(value.get_secret_value()))

    @field_validator("redis_url", "arq_redis_url", mode="after")
    @classmethod
    def _redis_url_is_one_server(cls, value: SecretStr) -> SecretStr:
        _check_redis_url(value.get_secret_value())
        return value

    @model_validator(mode="after")
    def _can_work_together(self) -> Self:
        _demand(self.delay_min_seconds, "<=", self.delay_max_seconds, "delay_min_seconds", "delay_max_seconds")
        _demand(
            self.backoff_base_seconds, "<=", self.backoff_cap_seconds, "backoff_base_seconds", "backoff_cap_seconds"
        )
        _demand(2 * self.renew_seconds, "<=", self.lease_seconds, "2 * renew_seconds", "lease_seconds")
        _demand(self.reclaim_every_seconds, "<=", self.lease_seconds, "reclaim_every_seconds", "lease_seconds")
        _demand(
            self.reconcile_every_seconds,
            "<=",
            self.stale_after_seconds,
            "reconcile_every_seconds",
            "stale_after_seconds",
        )
        longest = self.executor_timeout_seconds + CANCEL_GRACE_SECONDS
        _demand(longest, "<=", self.drain_seconds, "executor_timeout_seconds + 5", "drain_seconds")
        _demand(longest, "<=", self.stale_after_seconds, "executor_timeout_seconds + 5", "stale_after_seconds")
        _demand(
            self.backoff_cap_seconds,
            "<=",
            self.retention_days * 86_400,
            "backoff_cap_seconds",
            "retention_days * 86400",
        )
        if self.redis_cluster:
            _check_cluster_url(self.redis_url.get_secret_value())
        return self

    def require_servers(self) -> Self:
        """Raise :class:`ConfigError` where a server's URL is missing."""
        missing = [
            f"MQWORKER_{name.upper()}"
            for name in ("database_url", "redis_url")
            if not getattr(self, name).get_secret_value()
        ]
        if missing:
            raise ConfigError(f"{' and '.join(missing)} must be set (`mqworker dev` starts servers and prints both)")
        return self

    def redis_url_of_arq(self) -> str:
        """Where arq's own keys live. Raises :class:`ConfigError` where that would be a cluster."""
        own = self.arq_redis_url.get_secret_value()
        if self.redis_cluster and not own:
            raise ConfigError(
                "MQWORKER_ARQ_REDIS_URL must be set with MQWORKER_REDIS_CLUSTER: arq, which runs the workers, needs a "
                "plain Redis; any will do, it holds no messages"
            )
        return own or self.redis_url.get_secret_value()


def load_settings(**overrides: Any) -> Settings:
    """Read the settings from the environment and ``.env``; keyword arguments win. Raises :class:`ConfigError`."""
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise ConfigError("; ".join(_one_line(e["loc"], e["msg"]) for e in error.errors(include_input=False))) from None


def _one_line(location: tuple[int | str, ...], text: str) -> str:
    name = ".".join(str(part) for part in location)
    reason = text.removeprefix("Value error, ")
    return f"MQWORKER_{name.upper()}: {reason}" if name else reason


def _demand(left: float, relation: str, right: float, left_name: str, right_name: str) -> None:
    if not left <= right:
        raise ValueError(f"{left_name} {relation} {right_name} must hold, but {left:g} > {right:g}")


def _database_url(url: str) -> str:
    """The URL with the driver that this project uses; the empty string passes (checked where it is needed)."""
    if not url:
        return url
    if url != url.strip():
        raise ValueError("has white space around it")
    scheme, _, rest = url.partition("://")
    if scheme not in ("postgresql", "postgresql+psycopg", "postgres"):
        raise ValueError("must start with postgresql:// (postgresql+psycopg:// and postgres:// are taken too)")
    try:
        database = make_url(f"postgresql+psycopg://{rest}").database
    except Exception:
        raise ValueError(_UNREADABLE) from None
    if not database:
        raise ValueError("must name a database: postgresql://user:password@host:5432/DATABASE")
    return f"postgresql+psycopg://{rest}"


# The parsers' own words may quote the password.
_UNREADABLE = "cannot be read: look at its host and port, and percent-encode signs such as / # @ in the password"


def _check_redis_url(url: str) -> None:
    if not url:
        return
    if url != url.strip():
        raise ValueError("has white space around it")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError(_UNREADABLE) from None
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ValueError("must start with redis://, rediss:// or unix://")
    if "," in parts.netloc:
        raise ValueError(
            "must name one server, not a list: of a Redis Cluster any one node; Sentinel is not known here"
        )
    if parts.scheme != "unix":
        _check_redis_server(parts)
    _check_redis_tls(parts)


def _check_redis_tls(parts: SplitResult) -> None:
    """TLS that checks nothing protects from nobody who can stand in between, and looks as if it did."""
    # Every one of them: of a name that comes twice redis-py takes the first.
    options = [(name, value.lower()) for name, value in parse_qsl(parts.query, True) if name.startswith("ssl_")]
    if options and parts.scheme != "rediss":
        raise ValueError("has ssl_ parameters, but only rediss:// is TLS")
    if any(_turns_check_off(*option) for option in options):
        raise ValueError(
            "must not turn off the check of the certificate or of its host name: "
            "give your own CA with rediss://...?ssl_ca_certs=/path/ca.pem"
        )


def _turns_check_off(name: str, value: str) -> bool:
    match name:
        case "ssl_cert_reqs":
            return value != "required"
        case "ssl_check_hostname":
            return value in ("", "0", "f", "false", "n", "no")  # what redis-py takes for no
        case _:
            return False


def _check_redis_server(parts: SplitResult) -> None:
    try:
        _ = parts.port
    except ValueError:
        raise ValueError(_UNREADABLE) from None
    # redis-py takes database 0 in silence for a name that is no number.
    if not re.fullmatch(r"/?|/\d{1,5}", parts.path, re.ASCII):
        raise ValueError("must end with the number of its database, if any: redis://host:6379/0")


def _check_cluster_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme == "unix" or parts.path not in ("", "/", "/0"):
        raise ValueError("redis_url must name a host and no database but 0 with redis_cluster")


def open_links(settings: Settings) -> list[str]:
    """The servers that are reached over a network without TLS that checks who answers, each with what to do.

    A warning and no refusal: a private network, a tunnel or a mesh may protect the way, and we cannot see it.
    """
    postgres = make_url(settings.database_url.get_secret_value())
    # psycopg takes what is missing in the URL from the same variables as psql does.
    host = postgres.host or postgres.query.get("host") or os.environ.get("PGHOST", "")
    hosts = host.split(",") if isinstance(host, str) else host
    mode = postgres.query.get("sslmode") or os.environ.get("PGSSLMODE", "prefer")
    risks = []
    if mode not in ("verify-full", "verify-ca") and any(map(_is_elsewhere, hosts)):
        risks.append(
            f"PostgreSQL is reached over a network with sslmode={mode}, which checks nobody's certificate: messages "
            "and password can be read on the way; add ?sslmode=verify-full&sslrootcert=/path/ca.pem to its URL"
        )
    redis = [urlsplit(url.get_secret_value()) for url in (settings.redis_url, settings.arq_redis_url)]
    if any(one.scheme == "redis" and _is_elsewhere(one.hostname or "") for one in redis):
        risks.append(
            "Redis is reached over a network without TLS: ids and password can be read and changed on the way; "
            "use rediss://"
        )
    return risks


def _is_elsewhere(host: str) -> bool:
    """Whether a host is none of this machine's own: a socket's path (or nothing) and loopback are."""
    if not host or host.startswith(("/", "@")) or host.lower().rstrip(".") == "localhost":
        return False
    try:
        return not ip_address(host).is_loopback
    except ValueError:
        return True
