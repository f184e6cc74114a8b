# /// script
# requires-python = ">=3.11"
# dependencies = ["jinja2>=3.1"]
#
# [tool.pratai]
# description = "Orders of a month as a web page with a chart."
# memory_mb = 128
# timeout_ms = 10_000
# ///
"""HTML report: the orders of a month (JSON) in, a web page with a chart out.

The comment above is a PEP 723 header: the libraries this one file needs, and under
`[tool.pratai]` how it is to run. They travel with the code; no flags to remember.
"""

import json
from collections import Counter

from jinja2 import Environment

# Compiled once, when an instance starts; each call only renders. `autoescape` matters: a
# customer may be called "<script>".
PAGE = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string("""\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ shop }}, {{ month }}</title>
<style>
 body {font: 16px/1.5 system-ui, sans-serif; color: #1f2933; max-width: 46rem; margin: 3rem auto}
 h1 {font-weight: 600} .total {font-size: 2rem; color: #0b6e4f}
 table {border-collapse: collapse; width: 100%} th {text-align: left; color: #616e7c}
 td, th {padding: .4rem .6rem; border-bottom: 1px solid #e4e7eb} .n {text-align: right}
 rect {fill: #2a9d8f} svg text {font: 13px system-ui, sans-serif; fill: #323f4b}
</style></head><body>
<h1>{{ shop }}: {{ month }}</h1>
<p class="total">{{ "%.2f"|format(total / 100) }} {{ currency }}</p>
<svg viewBox="0 0 640 {{ bars|length * 34 }}" width="100%" role="img" aria-label="By product">
{% for bar in bars %}
 <text x="0" y="{{ loop.index0 * 34 + 20 }}">{{ bar.name }}</text>
 <rect x="150" y="{{ loop.index0 * 34 + 4 }}" width="{{ bar.width }}" height="24" rx="3"/>
 <text x="{{ bar.width + 158 }}" y="{{ loop.index0 * 34 + 20 }}">
  {{ "%.2f"|format(bar.cents / 100) }}</text>
{% endfor %}
</svg>
<table><tr><th>Order</th><th>Customer</th><th>Items</th><th class="n">Total</th></tr>
{% for order in orders %}
<tr><td>{{ order.id }}</td><td>{{ order.customer }}</td><td>{{ order.bought }}</td>
 <td class="n">{{ "%.2f"|format(order.cents / 100) }}</td></tr>
{% endfor %}
</table></body></html>
""")


def handler(event, context):
    # Called over /fn/html_report the JSON is the body of a web request; invoked, it is the event.
    report = json.loads(event["body"]) if "requestContext" in event else event
    by_product, orders = Counter(), []
    for order in report["orders"]:
        for line in order["lines"]:
            by_product[line["product"]] += line["units"] * line["unit_cents"]
        orders.append({
            "id": order["id"],
            "customer": order["customer"],
            "bought": "; ".join(f"{line['units']} x {line['product']}" for line in order["lines"]),
            "cents": sum(line["units"] * line["unit_cents"] for line in order["lines"]),
        })
    most = max(by_product.values(), default=1) or 1
    bars = [{"name": name, "cents": cents, "width": round(400 * cents / most)}
            for name, cents in by_product.most_common()]
    page = PAGE.render(shop=report["shop"], month=report["month"], currency=report["currency"],
                       total=by_product.total(), bars=bars, orders=orders)
    # A mapping with `statusCode` is a web response: over /fn/ it becomes status, headers, body.
    return {
        "statusCode": 200,
        "headers": {"content-type": "text/html; charset=utf-8"},
        "body": page,
    }
