"""The agent: turns outside happenings (times, files, outcomes) into events and deliveries."""
