"""Happenings that the agent looks for itself, other than time: one file each."""
