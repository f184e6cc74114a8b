"""The HTTP process that accepts invocations and serves the APIs."""
