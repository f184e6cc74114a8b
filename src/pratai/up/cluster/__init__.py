"""Composition of a cluster's processes: gateway, scheduler, agent and node, one file each."""
