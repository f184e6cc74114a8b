"""The Python runtime: zygotes and the worker loop, in the standard library alone.

Loaded under a private package name by `bootstrap.py`, so that a user's own `worker.py` or
`records.py` never meets these modules.
"""
