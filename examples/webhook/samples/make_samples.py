"""Writes the push event and its signed and forged forms. The secret is for trying only.

push.json is the body alone, to post to /fn/webhook; signed.json and forged.json are events to
invoke the function with: the same body, with a right and a wrong signature.
"""

import hashlib
import hmac
import json
from pathlib import Path

HERE = Path(__file__).parent
SECRET = b"only-for-trying"
COMMITS = [
    ("5f0c1d9a7b", "Mara Voss", "Read the tide tables from the harbour's own feed\n\nCloses #41"),
    ("c2be8840f1", "Mara Voss", "Round heights to centimetres"),
    ("90dd3e6c25", "Idris Bello", "Test the day the clocks change"),
    ("1b7a4c0e88", "Idris Bello", "Say which station a warning is about"),
]


def write():
    push = {
        "ref": "refs/heads/main",
        "before": "77aa01", "after": COMMITS[-1][0],
        "forced": False,
        "compare": "https://git.example/harbour/tides/compare/77aa01...1b7a4c",
        "repository": {"full_name": "harbour/tides", "private": False},
        "pusher": {"name": "mara"},
        "commits": [{"id": commit, "author": {"name": name}, "message": message}
                    for commit, name, message in COMMITS],
    }
    body = json.dumps(push, indent=1) + "\n"
    (HERE / "push.json").write_text(body, encoding="utf-8")
    right = "sha256=" + hmac.new(SECRET, body.encode(), hashlib.sha256).hexdigest()
    wrong = "sha256=" + hmac.new(b"a guess", body.encode(), hashlib.sha256).hexdigest()
    for name, signature in (("signed", right), ("forged", wrong)):
        event = {"headers": {"X-GitHub-Event": "push", "X-Hub-Signature-256": signature},
                 "body": body}
        (HERE / f"{name}.json").write_text(json.dumps(event, indent=1) + "\n", encoding="utf-8")
    print(right)


if __name__ == "__main__":
    write()
