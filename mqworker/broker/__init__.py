"""The only room that speaks Redis, the fast view of what waits. It may be empty or stale; only latency suffers."""

from mqworker.broker.broker import Broker, Entry, Finish, Lease, Leased, Taken
from mqworker.broker.connection import BrokerUnavailable, connection_options
from mqworker.broker.inspection import Inspection, ServerFacts
from mqworker.broker.keys import Keys
from mqworker.broker.wake import Wake

__all__ = [
    "Broker",
    "BrokerUnavailable",
    "Entry",
    "Finish",
    "Inspection",
    "Keys",
    "Lease",
    "Leased",
    "ServerFacts",
    "Taken",
    "Wake",
    "connection_options",
]
