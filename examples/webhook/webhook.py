# /// script
# requires-python = ">=3.11"
#
# [tool.pratai]
# description = "Checks a signed push event and turns it into a chat message."
# timeout_ms = 5_000
# public = true
# ///
"""Webhook: a signed push event, as code hosts send it, in; a short chat message out.

`public = true` opens /fn/webhook without a key, since senders of webhooks have none. What
protects it is the signature: HMAC-SHA256 of the body with a secret both sides know.
"""

import base64
import hashlib
import hmac
import json
import os

COMMITS_SHOWN = 3


def handler(event, context):
    # Invoked with {"headers": ..., "body": ...} or called over /fn/webhook: same two fields.
    headers = {name.lower(): value for name, value in event.get("headers", {}).items()}
    body = event.get("body") or ""
    raw = base64.b64decode(body) if event.get("isBase64Encoded") else body.encode()

    if not signed(raw, headers.get("x-hub-signature-256", "")):
        print("refused: wrong or missing signature")
        return reply(401, {"error": "the signature does not fit the body"})
    kind = headers.get("x-github-event", "push")
    if kind != "push":
        return reply(202, {"ignored": kind})
    return reply(200, {"text": chat_message(json.loads(raw))})


def signed(raw, signature):
    # A missing secret is the operator's mistake, not the caller's: fail, never let all pass.
    secret = os.environ.get("WEBHOOK_SECRET")
    if not secret:
        raise RuntimeError("deploy with --env WEBHOOK_SECRET=...")
    expected = "sha256=" + hmac.new(secret.encode(), raw, hashlib.sha256).hexdigest()
    # compare_digest takes the same time wherever the first difference is: nothing to measure.
    return hmac.compare_digest(expected.encode(), signature.encode())


def chat_message(push):
    branch = push["ref"].removeprefix("refs/heads/")
    commits = push["commits"]
    forced = "force-pushed" if push.get("forced") else "pushed"
    count = f"{len(commits)} commit{'' if len(commits) == 1 else 's'}"
    lines = [f"{push['pusher']['name']} {forced} {count} to "
             f"{push['repository']['full_name']}:{branch}"]
    for commit in commits[:COMMITS_SHOWN]:
        title = commit["message"].splitlines()[0]
        lines.append(f"  {commit['id'][:7]} {title[:72]} ({commit['author']['name']})")
    if len(commits) > COMMITS_SHOWN:
        lines.append(f"  and {len(commits) - COMMITS_SHOWN} more")
    lines.append(push["compare"])
    return "\n".join(lines)


def reply(status, content):
    return {
        "statusCode": status,
        "headers": {"content-type": "application/json"},
        "body": json.dumps(content),
    }
