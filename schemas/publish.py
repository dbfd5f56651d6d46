"""The documents made of the messages: JSON Schema, AsyncAPI 3, and the page of the wire. Committed as they are made.

``python -m schemas.publish`` writes them anew; a test compares.
"""

from __future__ import annotations

import json
import re
from functools import reduce
from importlib import resources
from inspect import cleandoc
from operator import or_
from pathlib import Path
from typing import Any

import msgspec

from schemas.catalogue import WAYS, Way
from schemas.codec import CONTENT_TYPE, MESSAGES, MOST_IN_BUNDLE
from schemas.envelope import MAX_BODY_BYTES, WIRE_VERSION

JSON_SCHEMA, ASYNCAPI = "messages.schema.json", "asyncapi.json"


def json_schema() -> dict[str, Any]:
    """Give the JSON Schema of every message, as the shape of the msgpack map."""
    kinds = reduce(or_, MESSAGES.values())
    (schema,), parts = msgspec.json.schema_components([kinds], ref_template="#/$defs/{name}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Volunteer Cloud messages, wire version {WIRE_VERSION}",
        "description": f"Each body is one msgpack map of at most {MAX_BODY_BYTES} bytes; bytes are msgpack bin. "
        "Between the centre and virtual machines it may be a bundle of them.",
        **schema,
        "$defs": _said_plainly(dict(sorted(parts.items()))) | {"Bundle": _BUNDLE},
    }


def _said_plainly(part: Any) -> Any:
    """Take the indent of the code out of descriptions, which versions of the library leave in or take out."""
    if isinstance(part, dict):
        return {
            name: cleandoc(value) if name == "description" and isinstance(value, str) else _said_plainly(value)
            for name, value in part.items()
        }
    return [_said_plainly(one) for one in part] if isinstance(part, list) else part


def asyncapi() -> dict[str, Any]:
    """Give the AsyncAPI 3 document: a channel for each way, the messages that take it."""
    ways = sorted({way for ways in WAYS.values() for way in ways}, key=lambda w: (w.exchange, w.key, w.senders))
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Volunteer Cloud",
            "version": str(WIRE_VERSION),
            "description": "Messages between hosts, virtual machines, the centre and its users, over RabbitMQ.",
        },
        "defaultContentType": CONTENT_TYPE,
        "channels": {_channel_name(way): _channel(way) for way in ways},
        "operations": {f"send_{_channel_name(way)}": _operation(way) for way in ways},
        "components": {"messages": {_slug(op): _message(op) for op in sorted(MESSAGES)}},
    }


def _channel(way: Way) -> dict[str, Any]:
    parameters = re.findall(r"{(\w+)}", way.key)
    channel: dict[str, Any] = {
        "address": way.key,
        "description": f"From {way.senders}; lands in the queue {way.queue}.",
        "messages": {_slug(op): {"$ref": f"#/components/messages/{_slug(op)}"} for op in _ops_of(way)},
        "bindings": {
            "amqp": {
                "is": "routingKey",
                "exchange": {"name": way.exchange, "type": "topic" if way.exchange else "default", "durable": True},
                "bindingVersion": "0.3.0",
            }
        },
    }
    if parameters:
        channel["parameters"] = {name: {"description": _PARAMETERS[name]} for name in parameters}
    return channel


def _operation(way: Way) -> dict[str, Any]:
    return {"action": "send", "channel": {"$ref": f"#/channels/{_channel_name(way)}"}}


def _message(op: str) -> dict[str, Any]:
    kind = MESSAGES[op]
    return {
        "name": op,
        "summary": (kind.__doc__ or "").strip().split("\n")[0],
        "contentType": CONTENT_TYPE,
        "payload": {"$ref": f"{JSON_SCHEMA}#/$defs/{kind.__name__}"},
    }


def _ops_of(way: Way) -> list[str]:
    return sorted(op for op, ways in WAYS.items() if way in ways)


def _slug(op: str) -> str:
    return op.replace(".", "_")


def _channel_name(way: Way) -> str:
    words = f"{way.exchange or 'default'} {way.key} from {way.senders}"
    return re.sub(r"[^A-Za-z0-9]+", "_", words).strip("_")


_BUNDLE = {
    "title": "Bundle",
    "description": "Messages that travel together: each is taken, answered and refused by itself.",
    "type": "array",
    "minItems": 1,
    "maxItems": MOST_IN_BUNDLE,
    "items": {"$ref": "#"},
}
_PARAMETERS = {
    "user": "The sender: a broker user, checked by the broker.",
    "id": "The receiver's name without its kind.",
    "adapter": "The storage adapter that the transfer is with.",
    "console": "The console that asked.",
    "random": "The random end of the console's reply queue.",
}


def render(document: dict[str, Any]) -> str:
    """Render a document as it is committed."""
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def documents() -> dict[str, str]:
    """Give the documents by file name."""
    return {JSON_SCHEMA: render(json_schema()), ASYNCAPI: render(asyncapi())}


def main() -> None:
    """Write the documents beside this module."""
    for name, text in documents().items():
        with resources.as_file(resources.files("schemas") / name) as path:
            Path(path).write_text(text)


if __name__ == "__main__":
    main()
