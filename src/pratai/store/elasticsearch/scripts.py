"""Changes of one document made by Elasticsearch itself, so that each is atomic (painless).

Each first looks whether it was made before: a request that was lost with its answer is made again,
with the same `token`.
"""

from __future__ import annotations

from typing import Any

#: An attempt began.
LEASE = """
def s = ctx._source;
if (s.done != false || s.attempt >= params.attempt) { ctx.op = 'none'; return; }
s.state = 'leased';
s.attempt = params.attempt;
s.node_id = params.node_id;
s.token = params.token;
"""

#: An attempt ended without success.
RETRY = """
def s = ctx._source;
if (s.done != false || s.attempt > params.attempt || s.token == params.token) {
  ctx.op = 'none'; return;
}
s.state = 'queued';
s.attempt = params.attempt;
s.available_at_ms = params.available_at_ms;
s.failure = params.failure;
s.timeline.addAll(params.marks);
s.token = params.token;
"""

#: It is done, once.
OUTCOME = """
def s = ctx._source;
if (s.done != false) { ctx.op = 'none'; return; }
s.putAll(params.fields);
s.state = 'done';
s.done = true;
if (params.attempt > s.attempt) { s.attempt = params.attempt; }
if (params.node_id != '') { s.node_id = params.node_id; }
s.bytes += params.bytes;
s.timeline.addAll(params.marks);
s.token = params.token;
"""

#: A key goes with its invocation, unless it belongs to another one by now.
FORGET_KEY = """
if (ctx._source.request_id == params.request_id) { ctx.op = 'delete'; } else { ctx.op = 'none'; }
"""


def script(source: str, params: dict[str, Any]) -> dict[str, Any]:
    """The body of an update."""
    return {"script": {"lang": "painless", "source": source, "params": params}}
