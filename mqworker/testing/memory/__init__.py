"""PostgreSQL and Redis in memory: what their statements and scripts do, atomically, to plain Python values.

The store and the broker on top of them are the real ones. That a server in memory does what the real one does is
shown by ``tests/conformance``, which runs the same tests and the same random calls on both.
"""
