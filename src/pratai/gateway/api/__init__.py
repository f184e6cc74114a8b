"""The native HTTP API: one table of operations, and a module of handlers for each kind of thing."""
