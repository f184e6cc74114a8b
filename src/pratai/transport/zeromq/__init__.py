"""Messages between processes over ZeroMQ PUSH/PULL; `transport.py` is its face."""
