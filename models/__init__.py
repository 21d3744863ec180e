"""The rows, as SQLModel tables and nothing else. Import them as ``mqworker.models``.

They validate nothing (SQLModel's ``table=True`` switches pydantic off): input is checked in
``mqworker.validation`` before it comes here. The statements that change rows live in ``mqworker.store``.
"""

if __name__ == "models":
    # Two imports of one file are two sets of tables with the same names, which SQLAlchemy refuses much later
    # and with a worse text.
    raise ImportError("import mqworker.models, not models")

from .base import Row
from .chats import Chat
from .duties import Duty
from .instances import Instance
from .items import Item, Status

METADATA = Row.metadata
VERSION_TABLE = "message_queue_version"
"""Alembic's own table: not the default name, which an application in the same database may use."""

__all__ = ["METADATA", "VERSION_TABLE", "Chat", "Duty", "Instance", "Item", "Status"]
