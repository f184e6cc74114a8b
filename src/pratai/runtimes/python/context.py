"""The second argument of a handler: what it may know of its call, under AWS's names and ours."""

from __future__ import annotations

import time
from typing import Any


def facts_of(spec: dict[str, Any]) -> dict[str, Any]:
    """What is the same for every call of an instance, and what a call has unless it says."""
    return {
        "attempt": 1,
        "idempotency_key": "",
        "trigger": "http",
        "content_type": "application/json",
        "deadline_ms": 0,
        "trace": "",
        "function_name": spec["function"],
        "function_version": spec["version"],
        "invoked_function_arn": spec["arn"],
        "memory_limit_in_mb": spec["memory_mb"],
        "log_group_name": f"/pratai/{spec['namespace']}/{spec['function']}",
        "log_stream_name": spec["instance_id"],
        "identity": None,
        "client_context": None,
    }


class Context:
    """One call. Attributes only; nothing here talks to the node.

    Made anew for every call, so its attributes are set in one go from two dictionaries.
    """

    request_id: str
    aws_request_id: str
    attempt: int
    idempotency_key: str
    trigger: str
    content_type: str
    deadline_ms: int
    #: W3C `traceparent` of the call, or "".
    trace: str
    function_name: str
    function_version: str
    invoked_function_arn: str
    memory_limit_in_mb: int
    log_group_name: str
    log_stream_name: str
    identity: None
    client_context: None

    def __init__(self, facts: dict[str, Any], meta: dict[str, Any]) -> None:
        self.__dict__.update(facts)
        self.__dict__.update(meta)
        self.aws_request_id = meta["request_id"]

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the call is cut off; never below zero."""
        return max(0, self.deadline_ms - time.time_ns() // 1_000_000)

    def __repr__(self) -> str:
        return f"<Context {self.function_name}:{self.function_version} {self.request_id}>"
