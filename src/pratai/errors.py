"""Every error of the platform, by who is to blame. Nothing here knows HTTP beyond a status hint.

`CallerError`: the request is wrong; asking again without changing it will not help, unless
`retryable`. `FunctionError`: the user's code failed. `PlatformError`: Pratai or its machine failed.
Each carries a code (stable, for programs), a sentence and a next step (for people).
"""

from __future__ import annotations

from typing import Literal

Fault = Literal["caller", "function", "platform"]


class PrataiError(Exception):
    """What all errors of Pratai share.

    `code`: stable snake_case name. `status`: HTTP status that the gateway answers with.
    `retryable`: whether the same request may succeed later. `retry_after_s`: when to ask again.
    """

    fault: Fault = "platform"
    code: str = "internal"
    status: int = 500
    retryable: bool = False

    def __init__(  # every part of a problem document can be set
        self,
        detail: str,
        *,
        next_step: str = "",
        code: str | None = None,
        status: int | None = None,
        field: str | None = None,
        value: object = None,
        allowed: object = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.next_step = next_step
        self.field = field
        self.value = value
        self.allowed = allowed
        self.retry_after_s = retry_after_s
        if code is not None:
            self.code = code
        if status is not None:
            self.status = status


class CallerError(PrataiError):
    """The request is wrong."""

    fault: Fault = "caller"
    code = "bad_request"
    status = 400


class InvalidField(CallerError):
    """A field of the request has a value that is not allowed."""

    code = "invalid_field"


class Unauthorized(CallerError):
    """No key, or a key that is not known."""

    code = "unauthorized"
    status = 401


class Forbidden(CallerError):
    """The key is known but may not do this."""

    code = "forbidden"
    status = 403


class NotFound(CallerError):
    """What the request names does not exist."""

    code = "not_found"
    status = 404


class Conflict(CallerError):
    """Somebody else changed it first, or it exists already."""

    code = "conflict"
    status = 409
    retryable = True


class PayloadTooLarge(CallerError):
    """The event or package is above its limit."""

    code = "payload_too_large"
    status = 413


class Throttled(CallerError):
    """A queue or limit is full; `retry_after_s` says when room is expected."""

    code = "throttled"
    status = 429
    retryable = True


class FunctionError(PrataiError):
    """The function failed; `detail` is its own message."""

    fault: Fault = "function"
    code = "function_error"
    status = 502


class FunctionTimeout(FunctionError):
    """The call's deadline passed."""

    code = "timed_out"
    status = 504


class PlatformError(PrataiError):
    """Pratai or its machine failed; the request itself may be fine."""

    fault: Fault = "platform"
    code = "platform_error"
    status = 503
    retryable = True


class StoreUnavailable(PlatformError):
    """The store cannot be reached or refuses writes."""

    code = "store_unavailable"


class Draining(PlatformError):
    """This process is shutting down and takes no new calls."""

    code = "draining"


class ConfigError(PrataiError):
    """A configuration file, variable or flag is wrong."""

    fault: Fault = "caller"
    code = "config_error"
    status = 400
