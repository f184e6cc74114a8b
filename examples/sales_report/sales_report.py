"""Sales report: a CSV of orders in, totals by region, by month and by product out.

A function with no dependencies needs no header and no folder: this one file is the package.
"""

import csv
import io
from collections import Counter, defaultdict
from decimal import Decimal, InvalidOperation

COLUMNS = ("order_id", "date", "region", "product", "units", "unit_price")
TOP = 5


def main(payload):
    text = payload.decode("utf-8-sig") if isinstance(payload, bytes) else payload
    rows = csv.DictReader(io.StringIO(text))
    missing = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
    if missing:
        raise ValueError(f"the first line must name the columns; missing: {', '.join(missing)}")

    regions, months, revenue = defaultdict(Decimal), defaultdict(Decimal), defaultdict(Decimal)
    units, accepted, rejected = Counter(), 0, []
    for row in rows:
        try:
            sold, price = parse(row)
        except ValueError as error:
            # One bad line must not spoil the report; say which it was and why.
            rejected.append({"line": rows.line_num, "why": str(error)})
            continue
        accepted += 1
        amount = sold * price
        regions[row["region"]] += amount
        months[row["date"][:7]] += amount
        revenue[row["product"]] += amount
        units[row["product"]] += sold

    best = sorted(revenue, key=revenue.get, reverse=True)[:TOP]
    return {
        "rows": accepted,
        "revenue": money(sum(revenue.values())),
        "by_region": {name: money(regions[name]) for name in sorted(regions)},
        "by_month": {name: money(months[name]) for name in sorted(months)},
        "top_products": [
            {"product": name, "revenue": money(revenue[name]), "units": units[name]}
            for name in best
        ],
        "rejected": {"rows": len(rejected), "first": rejected[:3]},
    }


def parse(row):
    """Units and price of one line, or a ValueError that says what is wrong with it."""
    if any(row[name] in (None, "") for name in COLUMNS):
        raise ValueError("a column is empty")
    try:
        units, price = int(row["units"]), Decimal(row["unit_price"])
    except (ValueError, InvalidOperation):
        raise ValueError(f"not numbers: {row['units']!r}, {row['unit_price']!r}") from None
    if units < 1 or not price.is_finite() or price < 0:
        raise ValueError(f"not a sale: {units} units at {price}")
    return units, price


def money(amount):
    # Decimal keeps cents exact while adding; a float is precise enough to show the sum.
    return float(round(Decimal(amount), 2))
