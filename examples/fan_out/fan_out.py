# /// script
# requires-python = ">=3.11"
#
# [tool.pratai]
# description = "Classifies many texts at once by calling another function."
# timeout_ms = 60_000
# network = "host"
# ///
"""Fan out: a list of texts in; another function is called for each, at once; answers merged.

Functions call functions the way everybody does: over the HTTP API, with a key. Where and which
key is told at deploy time. (`network = "host"` because the platform may listen on loopback only.)
"""

import asyncio
import json
import os
import urllib.error
import urllib.request
from collections import Counter

AT_ONCE = 8
TEXTS_MAX = 500
FUNCTION = os.environ.get("FAN_OUT_FUNCTION", "classify")
# Taken here because a function talks to one known server: proxies of the machine are not meant.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


async def handler(event, context):
    texts = event["texts"]
    if len(texts) > TEXTS_MAX:
        raise ValueError(f"{len(texts)} texts; at most {TEXTS_MAX} in one call")
    # Leave a second to put the answers together: a late part must not sink the whole.
    timeout_ms = max(1_000, context.get_remaining_time_in_millis() - 1_000)
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(text):
        async with gate:  # `to_thread` keeps this loop free while urllib waits for its answer
            return await asyncio.to_thread(call, {"text": text}, timeout_ms)

    answers = await asyncio.gather(*(one(text) for text in texts))
    labels = Counter(answer["label"] for answer in answers if "label" in answer)
    return {
        "texts": len(texts),
        "by_label": dict(labels.most_common()),
        "failed": sum("error" in answer for answer in answers),
        "answers": [{"text": text, **answer} for text, answer in zip(texts, answers)],
    }


def call(event, timeout_ms):
    """One synchronous invocation; a failure is an answer too, so that the others count."""
    request = urllib.request.Request(
        f"{os.environ['PLATFORM_URL'].rstrip('/')}/v1/functions/{FUNCTION}/invocations",
        data=json.dumps(event).encode(),
        headers={
            "Content-Type": "application/json",
            "Authorization": f"Bearer {os.environ['PLATFORM_KEY']}",
            "Pratai-Timeout-Ms": str(timeout_ms),
        },
    )
    try:
        with OPENER.open(request, timeout=timeout_ms / 1_000) as response:
            answer = json.load(response)
            return {"label": answer["label"], "probability": answer["probability"]}
    except urllib.error.HTTPError as error:  # the platform's errors are JSON with a `detail`
        problem = json.loads(error.read() or b"{}")
        return {"error": f"{error.code}: {problem.get('detail', error.reason)}"}
    except OSError as error:
        return {"error": f"no answer: {error}"}
