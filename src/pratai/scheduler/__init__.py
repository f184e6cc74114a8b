"""The process that queues, places and leases invocations. `core/` decides, `service.py` does."""
