"""Real servers for development and tests: PostgreSQL and Redis (or Valkey) that end when their owner ends.

with DevServers() as servers:
    print(servers.database_url, servers.redis_url)
"""

from mqworker.devserver.error import DevServerError
from mqworker.devserver.folders import default_state_folder
from mqworker.devserver.postgres import PostgresServer
from mqworker.devserver.redis import RedisServer
from mqworker.devserver.servers import DevServers

__all__ = ["DevServerError", "DevServers", "PostgresServer", "RedisServer", "default_state_folder"]
