"""The second argument of a handler: what it may know of its call, under AWS's names and ours."""

from __future__ import annotations

import time
from typing import Any


class Context:
    """One call. Attributes only; nothing here talks to the node."""

    def __init__(self, spec: dict[str, Any], meta: dict[str, Any]) -> None:
        self.request_id: str = meta["request_id"]
        self.aws_request_id: str = meta["request_id"]
        self.attempt: int = meta.get("attempt", 1)
        self.idempotency_key: str = meta.get("idempotency_key", "")
        self.trigger: str = meta.get("trigger", "http")
        self.content_type: str = meta.get("content_type", "application/json")
        self.deadline_ms: int = meta.get("deadline_ms", 0)
        #: W3C `traceparent` of the call, or "".
        self.trace: str = meta.get("trace", "")
        self.function_name: str = spec["function"]
        self.function_version: str = spec["version"]
        self.invoked_function_arn: str = spec["arn"]
        self.memory_limit_in_mb: int = spec["memory_mb"]
        self.log_group_name: str = f"/pratai/{spec['namespace']}/{spec['function']}"
        self.log_stream_name: str = spec["instance_id"]
        self.identity: None = None
        self.client_context: None = None

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the call is cut off; never below zero."""
        return max(0, self.deadline_ms - time.time_ns() // 1_000_000)

    def __repr__(self) -> str:
        return f"<Context {self.function_name}:{self.function_version} {self.request_id}>"
