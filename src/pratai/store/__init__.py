"""The durable home of functions, journal, results, logs and cluster facts; see `base.py`."""
