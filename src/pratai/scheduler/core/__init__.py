"""Decisions of the scheduler: queues, placement, leases. Pure."""
