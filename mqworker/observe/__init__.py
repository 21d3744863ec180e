"""What can be asked of a running worker over HTTP: ``/livez``, ``/readyz``, ``/metrics``.

Only this room knows of Prometheus. The worker counts plain numbers in its :class:`mqworker.tally.Tally`, whether or not
somebody asks.
"""

from mqworker.observe.observer import Observer

__all__ = ["Observer"]
