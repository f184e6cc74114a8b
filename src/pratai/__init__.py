"""Pratai: an event-driven functions platform that its users own. Holds the version alone."""

__version__ = "0.1.0"
