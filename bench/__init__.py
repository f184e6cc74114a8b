"""Benches: what Pratai costs next to other servers on the same cores, in the same run.

Each file measures one subject; `harness.py` holds what they share. Nothing here is a timed test,
and nothing in `src/` imports it.
"""
