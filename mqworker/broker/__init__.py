"""The only room that speaks Redis, the fast view of what waits. It may be empty or stale; only latency suffers."""

from mqworker.broker.broker import Broker, Entry, Finish, Lease, Leased, Taken
from mqworker.broker.connection import BrokerUnavailable, connection_options
from mqworker.broker.keys import Keys
from mqworker.broker.wake import Wake

__all__ = [
    "Broker",
    "BrokerUnavailable",
    "Entry",
    "Finish",
    "Keys",
    "Lease",
    "Leased",
    "Taken",
    "Wake",
    "connection_options",
]
