"""The rooms of mqworker as the commands that look after it use them."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from mqworker.broker import Broker, BrokerUnavailable, Keys
from mqworker.cli.exits import RedisAway
from mqworker.clockwork import Clockwork
from mqworker.settings import Settings, load_settings
from mqworker.store import Store
from mqworker.sweeps import Sweeps
from mqworker.tally import Tally


@dataclass(frozen=True)
class Rooms:
    """Open connections, and what works over them."""

    settings: Settings
    store: Store
    broker: Broker
    clockwork: Clockwork
    sweeps: Sweeps


@asynccontextmanager
async def opened_rooms() -> AsyncIterator[Rooms]:
    """Open them on the servers that the settings name. Raises :class:`RedisAway` where Redis fails what is done."""
    settings = load_settings().require_servers()
    name = f"command line at {socket.gethostname()}:{os.getpid()}"
    store = Store.open(settings, worker=name)
    redis_url, keys = settings.redis_url.get_secret_value(), Keys(settings.key_prefix)
    broker = Broker(redis_url, keys, owner=name, cluster=settings.redis_cluster)
    sweeps = Sweeps(store, broker, settings)
    try:
        yield Rooms(settings, store, broker, Clockwork(store, sweeps, Tally(), settings), sweeps)
    except BrokerUnavailable as error:
        raise RedisAway(f"Redis cannot be used: {error}") from error
    finally:
        await broker.aclose()
        await store.aclose()
