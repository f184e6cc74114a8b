"""A CloudEvent (CloudEvents 1.0) as the platform keeps it: attributes and data. Values only.

Reading one from HTTP is `gateway/cloudevents.py`; which triggers it matches, `event_filter.py`.
"""

from __future__ import annotations

import msgspec

#: Attributes of the specification in the order in which they are written; extensions follow.
ATTRIBUTES = (
    "specversion",
    "id",
    "source",
    "type",
    "subject",
    "time",
    "datacontenttype",
    "dataschema",
)

_encode = msgspec.json.Encoder().encode


class CloudEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event of somebody else, checked. Equal events are equal as JSON, however they came."""

    #: All context attributes that are set, by name; of the required ones none is missing.
    attributes: dict[str, str | int | bool]
    #: Data that is JSON, or text as a JSON string; None when there is none, or bytes.
    data: msgspec.Raw | None = None
    #: Data that is neither, as base64.
    data_base64: str | None = None

    @property
    def id(self) -> str:
        """Unique together with `source`: events with both alike are one event."""
        return str(self.attributes["id"])

    @property
    def source(self) -> str:
        """Where it happened, a URI reference."""
        return str(self.attributes["source"])

    def text(self, attribute: str) -> str | None:
        """An attribute as text, the way it is written in a header; None when it is not set."""
        value = self.attributes.get(attribute)
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, bool):
            return "true" if value else "false"
        return str(value)

    def to_json(self) -> bytes:
        """The structured JSON form: what a function is given."""
        attributes = self.attributes
        document: dict[str, object] = {
            name: attributes[name] for name in ATTRIBUTES if name in attributes
        }
        for name in sorted(attributes):
            document.setdefault(name, attributes[name])
        if self.data is not None:
            document["data"] = self.data
        elif self.data_base64 is not None:
            document["data_base64"] = self.data_base64
        return _encode(document)
