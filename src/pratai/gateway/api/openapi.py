"""The OpenAPI 3.1 document, made from the table of operations and the Structs they answer.

`python -m pratai.gateway.api.openapi` prints it.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable

import msgspec

import pratai
from pratai.gateway.api.keys import LABEL_CHARS_MAX
from pratai.gateway.api.operations import JSON, Operation, Reply
from pratai.gateway.api.parameters import NAME_PATTERN, Parameter
from pratai.gateway.api.routes import operations
from pratai.gateway.api.versions import WEIGHTS_MAX
from pratai.gateway.problems import CONTENT_TYPE
from pratai.model.api import LogView, Problem, ProgressView
from pratai.model.destination import PATTERN as DESTINATION_PATTERN
from pratai.model.function import FunctionConfig
from pratai.model.trigger_validation import (
    ALTERNATIVES_MAX,
    CRON_CHARS_MAX,
    EXTENSION_PATTERN,
    QUALIFIER_PATTERN,
)
from pratai.model.trigger_validation import RANGES as TRIGGER_RANGES
from pratai.model.validation import DESCRIPTION_CHARS_MAX, RANGES

Schema = dict[str, object]

_REF = "#/components/schemas/{name}"
_NUMBER = "^[0-9]{1,9}$"

PROBLEMS = {
    400: "A parameter, header or the body is wrong; `field` and `allowed` tell which and how.",
    401: "No key, or one that is not known.",
    403: "The key may not do this.",
    404: "What the path names does not exist.",
    409: "It exists already, or was changed meanwhile.",
    413: "The body is above its limit.",
    415: "The content type of the body is not understood.",
    422: "The package cannot be used: its contents or its dependencies are wrong.",
    429: "A limit is reached; `Retry-After` tells when to ask again.",
    500: "An error that was not foreseen; the operator finds it by `request_id`.",
    502: "The function failed; `error_type`, `error_message` and `stack` are its own.",
    503: "The platform cannot do it now; `Retry-After` tells when to ask again.",
    504: "The deadline of the call passed.",
}


def _bounds(field: str) -> Schema:
    least, most = TRIGGER_RANGES[field]
    return {"minimum": least, "maximum": most}


#: What handlers check beyond the types of a Struct's fields.
_CONSTRAINTS: dict[str, dict[str, Schema]] = {
    "FunctionConfig": {
        **{key: {"minimum": low, "maximum": high} for key, (low, high) in RANGES.items()},
        "description": {"maxLength": DESCRIPTION_CHARS_MAX},
        "on_success": {"pattern": DESTINATION_PATTERN},
        "on_failure": {"pattern": DESTINATION_PATTERN},
        "secrets": {"maxItems": 64, "uniqueItems": True},
        "labels": {"maxProperties": 64},
        "apt": {"maxItems": 64, "uniqueItems": True},
    },
    "AliasRequest": {
        "version": {"pattern": r"^([0-9]{1,9}|\$LATEST)?$"},
        "weights": {
            "maxProperties": WEIGHTS_MAX,
            "propertyNames": {"pattern": "^[1-9][0-9]{0,8}$"},
            "additionalProperties": {"type": "number", "minimum": 0, "maximum": 1},
        },
    },
    "TriggerRequest": {
        "function": {"pattern": NAME_PATTERN},
        "qualifier": {"pattern": QUALIFIER_PATTERN},
        "description": {"maxLength": DESCRIPTION_CHARS_MAX},
    },
    "TimerSource": {
        "cron": {"maxLength": CRON_CHARS_MAX},
        "missed_max": _bounds("timer.missed_max"),
        "start_at_ms": _bounds("timer.start_at_ms"),
    },
    "EventFilter": {
        **{name: {"maxItems": ALTERNATIVES_MAX} for name in ("type", "source", "subject")},
        "extensions": {"propertyNames": {"pattern": EXTENSION_PATTERN}},
    },
    "FolderSource": {
        "path": {"pattern": "^/"},
        "settle_ms": _bounds("folder.settle_ms"),
    },
    "PublishRequest": {"description": {"maxLength": DESCRIPTION_CHARS_MAX}},
    "RollbackRequest": {"version": {"pattern": "^[0-9]{0,9}$"}},
    "KeyRequest": {
        "namespace": {"pattern": f"^({NAME_PATTERN[1:-1]})?$"},
        "label": {"maxLength": LABEL_CHARS_MAX},
    },
}


def document(base_url: str = "http://127.0.0.1:9996") -> Schema:
    """The whole document."""
    table = operations()
    paths: dict[str, dict[str, object]] = {}
    for operation in table:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Pratai",
            "version": pratai.__version__,
            "description": "The native HTTP API. Every error is `application/problem+json`.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": base_url}],
        "tags": [{"name": tag} for tag in dict.fromkeys(one.tag for one in table)],
        "paths": paths,
        "components": {
            "schemas": _schemas(table),
            "responses": {str(status): _problem(text) for status, text in PROBLEMS.items()},
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A key of `pratai keys`. `pratai up` makes the first one.",
                }
            },
        },
    }


@functools.lru_cache(maxsize=8)
def document_bytes(base_url: str) -> bytes:
    """The document as JSON."""
    return msgspec.json.encode(document(base_url))


def problem_statuses(operation: Operation) -> list[int]:
    """Every status of a problem that an operation may answer."""
    statuses = {400, 500, 503, *operation.problems}
    if operation.access != "open":
        statuses.add(401)
    if operation.access in ("key", "admin", "endpoint"):
        statuses.add(403)
    return sorted(statuses)


def _operation(operation: Operation) -> Schema:
    described: Schema = {
        "operationId": operation.id,
        "summary": operation.summary,
        "tags": [operation.tag],
        "security": _security(operation),
        "parameters": [_parameter(one) for one in operation.parameters],
        "responses": {
            **{str(status): _reply(reply) for status, reply in operation.replies.items()},
            **{
                str(status): {"$ref": f"#/components/responses/{status}"}
                for status in problem_statuses(operation)
            },
        },
    }
    body = _body(operation)
    if body:
        described["requestBody"] = body
    return described


def _security(operation: Operation) -> list[dict[str, list[str]]]:
    if operation.access == "open":
        return []
    if operation.access in ("loopback", "endpoint"):
        return [{}, {"key": []}]
    return [{"key": []}]


def _parameter(parameter: Parameter) -> Schema:
    return {
        "name": parameter.name,
        "in": parameter.where,
        "required": parameter.where == "path",
        "description": parameter.description,
        "schema": parameter.schema,
    }


def _body(operation: Operation) -> Schema:
    if operation.body is not None:
        content: Schema = {JSON: {"schema": _ref(operation.body)}}
    elif operation.body_media:
        content = {media: _media(media, schema) for media, schema in operation.body_media.items()}
    else:
        return {}
    return {"required": operation.body_required, "content": content}


def _media(media: str, schema: Schema) -> Schema:
    if media.startswith("multipart/"):
        return {"schema": schema, "encoding": {"config": {"contentType": JSON}}}
    return {"schema": schema}


def _reply(reply: Reply) -> Schema:
    told: Schema = {"description": " ".join(reply.description.split())}
    content: Schema = {media: {} for media in reply.media}
    if reply.model is not None:
        content[JSON] = {"schema": _ref(reply.model)}
    if content:
        told["content"] = content
    if reply.headers:
        told["headers"] = {
            name: {"description": text, "schema": {"type": "string"}}
            for name, text in reply.headers
        }
    return told


def _problem(text: str) -> Schema:
    return {"description": text, "content": {CONTENT_TYPE: {"schema": _ref(Problem)}}}


def _ref(model: type[msgspec.Struct]) -> Schema:
    return {"$ref": _REF.format(name=model.__name__)}


def _schemas(table: Iterable[Operation]) -> Schema:
    models: dict[str, type[msgspec.Struct]] = {
        model.__name__: model for model in (Problem, LogView, ProgressView, FunctionConfig)
    }
    for operation in table:
        replied = [reply.model for reply in operation.replies.values()]
        for model in (operation.body, *replied):
            if model is not None:
                models[model.__name__] = model
    _, schemas = msgspec.json.schema_components(list(models.values()), ref_template=_REF)
    for name, fields in _CONSTRAINTS.items():
        for field, constraint in fields.items():
            _constrain(schemas[name]["properties"][field], constraint)
    schemas["Upload"] = {
        "type": "object",
        "required": ["package"],
        "properties": {
            "config": _ref(FunctionConfig),
            "package": {"type": "string", "format": "binary"},
        },
        "additionalProperties": False,
    }
    return dict(sorted(schemas.items()))


def _constrain(schema: Schema, constraint: Schema) -> None:
    """Add a constraint to a field, or to the branch of it that is not null."""
    branches = schema.get("anyOf")
    if isinstance(branches, list):
        next(one for one in branches if one.get("type") != "null").update(constraint)
    else:
        schema.update(constraint)


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(document()), indent=2) + b"\n")
