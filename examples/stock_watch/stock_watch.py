"""Stock watch: events tell how much is left of something, a timer asks what to order.

Runs by itself, on two triggers. The shop's tills send a CloudEvent for each count; they may come
twice and in any order, so the newest count by the event's own time stands. Every night a timer asks
for the list. Both are told apart by what they look like: CloudEvents have a `type`.
"""

import fcntl
import json
import os
import tempfile

PATH = os.environ.get("STOCK_PATH") or os.path.join(tempfile.gettempdir(), "stock.json")
LOW = int(os.environ.get("STOCK_LOW", "10"))

# Instances may run under different users, and each must be able to write.
os.umask(0)


def main(event):
    if event.get("type") == "com.example.stock.counted":
        return counted(event["time"], event["data"])
    if "due_at" in event:
        return to_order(event["due_at"])
    raise ValueError(f"neither a count nor a timer's event: {sorted(event)}")


def counted(time, data):
    """Keeps a count, unless a newer one of the same thing is there."""
    sku, left = data["sku"], data["left"]
    if not isinstance(left, int) or left < 0:
        raise ValueError(f"{sku}: {left!r} is no count")
    with opened() as file:
        stock = read(file)
        kept = stock.get(sku)
        is_news = kept is None or kept["time"] < time
        if is_news:
            stock[sku] = {"left": left, "time": time}
            file.seek(0)
            file.truncate()
            json.dump(stock, file)
    return {"sku": sku, "left": stock[sku]["left"], "news": is_news}


def to_order(due_at):
    """What there is too little of, the least first."""
    with opened() as file:
        stock = read(file)
    low = [(kept["left"], sku) for sku, kept in stock.items() if kept["left"] < LOW]
    print(f"{len(low)} of {len(stock)} things are low")
    return {"as_of": due_at, "order": [{"sku": sku, "left": left} for left, sku in sorted(low)]}


def opened():
    """The file of all counts, held for this instance alone until it is closed."""
    file = os.fdopen(os.open(PATH, os.O_RDWR | os.O_CREAT, 0o666), "r+")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def read(file):
    """{sku: newest count and its time}."""
    return json.loads(file.read() or "{}")
