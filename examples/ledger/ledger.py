"""Ledger: takes orders, writes each one down exactly once, answers with the totals so far.

Made for asynchronous events. Those are delivered *at least* once: after a crash an event may run
again. So the order's id decides, not the delivery: an id seen before changes nothing.
"""

import fcntl
import json
import os
import tempfile

PATH = os.environ.get("LEDGER_PATH") or os.path.join(tempfile.gettempdir(), "ledger.jsonl")

# Instances may run under different users, and each must be able to append.
os.umask(0)

# What this instance has read of the file. Other instances append too, so before each order we
# read on from `at`; the file is the truth, this is only a cache of it.
_read = {"file": None, "at": 0, "orders": {}}


def main(payload):
    order = checked(payload)
    descriptor = os.open(PATH, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    with open(descriptor, "rb+", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # one writer at a time; released when the file closes
        orders = catch_up(file)
        duplicate = order["order_id"] in orders
        if not duplicate:
            # One write of one line: a process killed here leaves a whole line or none.
            file.write(json.dumps(order).encode() + b"\n")
            catch_up(file)
        return {"order_id": order["order_id"], "duplicate": duplicate, "orders": len(orders),
                "total_cents": sum(orders.values())}


def checked(payload):
    """The order as it is written down, or an error that says what is wrong with it."""
    for field in ("order_id", "customer", "lines"):
        if not payload.get(field):
            raise ValueError(f"an order needs {field!r}")
    total = 0
    for line in payload["lines"]:
        units, cents = line["units"], line["unit_cents"]
        if not (isinstance(units, int) and isinstance(cents, int) and units > 0 and cents >= 0):
            raise ValueError(f"{payload['order_id']}: bad line {line}")
        total += units * cents
    return {"order_id": str(payload["order_id"]), "customer": str(payload["customer"]),
            "total_cents": total}


def catch_up(file):
    """Reads the lines added since last time; {order id: cents} of the whole file."""
    status = os.fstat(file.fileno())
    if _read["file"] != status.st_ino or status.st_size < _read["at"]:
        _read.update(file=status.st_ino, at=0, orders={})
    file.seek(_read["at"])
    added = file.read()
    whole = added.rfind(b"\n") + 1
    if whole < len(added):  # a line cut short by a power failure was never acknowledged
        file.truncate(_read["at"] + whole)
    for line in added[:whole].splitlines():
        order = json.loads(line)
        _read["orders"][order["order_id"]] = order["total_cents"]
    _read["at"] += whole
    return _read["orders"]
