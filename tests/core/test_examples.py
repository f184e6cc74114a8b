"""The examples do what they say: each handler is loaded by path and run on its shipped input.

No platform takes part: what a runtime does around a handler is tested with the runtime.
"""

from __future__ import annotations

import asyncio
import base64
import csv
import hashlib
import hmac
import importlib.util
import inspect
import io
import itertools
import json
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"
CATALOG: dict[str, dict[str, Any]] = tomllib.loads((EXAMPLES / "examples.toml").read_text("utf-8"))
CONTEXT = SimpleNamespace(get_remaining_time_in_millis=lambda: 30_000)
_NUMBERS = itertools.count()


def load(name: str) -> ModuleType:
    """A fresh copy of an example's module, as a new instance would import it."""
    path = EXAMPLES / CATALOG[name]["path"]
    path = path / "main.py" if path.is_dir() else path
    return load_file(path)


def load_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{next(_NUMBERS)}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(module: ModuleType, event: Any) -> Any:
    """The handler's result, awaited if need be."""
    result = module.main(event) if hasattr(module, "main") else module.handler(event, CONTEXT)
    return asyncio.run(result) if inspect.iscoroutine(result) else result


def sample(path: str) -> bytes:
    return (EXAMPLES / path).read_bytes()


def sample_json(path: str) -> Any:
    return json.loads(sample(path))


def image(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@pytest.fixture(autouse=True)
def no_bytecode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


# Thumbnail


def test_thumbnail_keeps_the_shape_of_a_photograph_and_its_format() -> None:
    small = image(call(load("thumbnail"), sample("thumbnail/samples/lake.jpg")))

    assert (small.format, small.size) == ("JPEG", (320, 213))


def test_thumbnail_turns_a_picture_stored_on_its_side_upright() -> None:
    data = sample("thumbnail/samples/dunes_rotated.jpg")
    assert image(data).size == (1350, 900)

    small = image(call(load("thumbnail"), data)).convert("RGB")

    assert small.size == (213, 320)
    assert not small.getexif()
    # The evening sky is violet at the top, the nearest dune dark brown at the bottom.
    top, bottom = small.getpixel((100, 4)), small.getpixel((100, 315))
    assert top[2] > top[1] + 20
    assert bottom[0] > max(bottom[1:]) + 10


def test_thumbnail_keeps_transparency() -> None:
    small = image(call(load("thumbnail"), sample("thumbnail/samples/badge.png")))

    assert (small.format, small.mode, small.size) == ("PNG", "RGBA", (320, 320))
    assert small.getpixel((0, 0))[3] == 0
    assert small.getpixel((160, 60))[3] == 255


# Sales report


def test_sales_report_adds_up_to_what_the_csv_says() -> None:
    data = sample("sales_report/samples/sales.csv")
    cents, june = 0, 0
    for row in csv.reader(data.decode().splitlines()[1:]):
        if row[4].isdecimal() and "," not in row[5]:
            amount = int(row[4]) * int(row[5].replace(".", ""))
            cents += amount
            june += amount if row[1].startswith("2024-06") else 0

    report = call(load("sales_report"), data)

    assert report["rows"] == 4_996
    assert round(report["revenue"] * 100) == cents == 50_002_899
    assert round(report["by_month"]["2024-06"] * 100) == june
    assert len(report["by_month"]) == 12
    assert sorted(report["by_region"]) == ["east", "north", "overseas", "south", "west"]
    assert round(sum(report["by_region"].values()) * 100) == cents
    assert [one["product"] for one in report["top_products"][:2]] == ["rain jacket", "rucksack"]


def test_sales_report_names_the_lines_it_could_not_read() -> None:
    rejected = call(load("sales_report"), sample("sales_report/samples/sales.csv"))["rejected"]

    assert rejected["rows"] == 4
    assert [one["line"] for one in rejected["first"]] == [612, 1_875, 3_334]


def test_sales_report_without_its_columns_says_which_are_missing() -> None:
    with pytest.raises(ValueError, match="missing: region, units"):
        call(load("sales_report"), b"order_id,date,product,unit_price\n1,2024-01-01,tent,3\n")


# HTML report


def test_html_report_shows_totals_and_one_bar_for_each_product() -> None:
    response = call(load("html_report"), sample_json("html_report/samples/orders.json"))

    page = response["body"]
    assert response["headers"]["content-type"].startswith("text/html")
    assert '<p class="total">1526.10 EUR</p>' in page
    assert page.count("<rect ") == 6
    assert page.count("<tr><td>T-") == 6


def test_html_report_escapes_what_customers_call_themselves() -> None:
    page = call(load("html_report"), sample_json("html_report/samples/orders.json"))["body"]

    assert "O&#39;Neill &amp; Sons &lt;catering&gt;" in page
    assert "<catering>" not in page


def test_html_report_answers_the_same_as_a_web_endpoint() -> None:
    module, body = load("html_report"), sample("html_report/samples/orders.json")

    over_http = call(module, {"requestContext": {}, "headers": {}, "body": body.decode()})

    assert over_http == call(module, json.loads(body))


# Webhook


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("WEBHOOK_SECRET", "only-for-trying")
    return load("webhook")


def test_webhook_turns_a_signed_push_into_a_message(webhook: ModuleType) -> None:
    response = call(webhook, sample_json("webhook/samples/signed.json"))

    lines = json.loads(response["body"])["text"].splitlines()
    assert response["statusCode"] == 200
    assert lines[0] == "mara pushed 4 commits to harbour/tides:main"
    assert lines[1] == "  5f0c1d9 Read the tide tables from the harbour's own feed (Mara Voss)"
    assert lines[-2] == "  and 1 more"


def test_webhook_refuses_a_forged_signature_and_a_changed_body(webhook: ModuleType) -> None:
    event = sample_json("webhook/samples/signed.json")
    changed = event | {"body": event["body"].replace("mara", "sara")}

    assert call(webhook, changed)["statusCode"] == 401
    assert call(webhook, sample_json("webhook/samples/forged.json"))["statusCode"] == 401


def test_webhook_takes_the_web_endpoints_event_with_a_base64_body(webhook: ModuleType) -> None:
    headers = CATALOG["webhook"]["fn"][0]["headers"]
    body = sample("webhook/samples/push.json")
    event = {
        "version": "2.0",
        "requestContext": {"http": {"method": "POST"}},
        "headers": {name.lower(): value for name, value in headers.items()},
        "body": base64.b64encode(body).decode(),
        "isBase64Encoded": True,
    }

    assert call(webhook, event)["statusCode"] == 200


def test_webhook_ignores_other_signed_events(webhook: ModuleType) -> None:
    signature = hmac.new(b"only-for-trying", b"{}", hashlib.sha256).hexdigest()
    headers = {"X-GitHub-Event": "ping", "X-Hub-Signature-256": f"sha256={signature}"}

    response = call(webhook, {"headers": headers, "body": "{}"})

    assert (response["statusCode"], json.loads(response["body"])) == (202, {"ignored": "ping"})


def test_webhook_without_a_secret_fails_instead_of_letting_all_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("WEBHOOK_SECRET", raising=False)

    with pytest.raises(RuntimeError, match="WEBHOOK_SECRET"):
        call(load("webhook"), sample_json("webhook/samples/signed.json"))


# Classify


def test_classify_gets_every_hand_written_ticket_right_though_none_is_in_its_training() -> None:
    module = load("classify")
    tickets = sample_json("classify/samples/tickets.json")
    known = {text for _, text in module.read_examples()}

    answers = [call(module, {"text": ticket["text"]}) for ticket in tickets]

    assert [ticket["label"] for ticket in tickets] == [answer["label"] for answer in answers]
    assert not known & {ticket["text"] for ticket in tickets}
    assert all(abs(sum(one["probabilities"].values()) - 1) < 0.001 for one in answers)


def test_classify_knows_nothing_of_a_text_without_a_known_word() -> None:
    assert call(load("classify"), {"text": "zyzzyva qwerty"})["probability"] == 0.2


# Search


@pytest.mark.parametrize(
    ("query", "title", "passage"),
    [
        ("how do birds find their way", "Migration of birds", "the stars, landmarks"),
        (
            "what a database does after a crash",
            "Write-ahead logs",
            "After a crash it reads the log",
        ),
        ("messages delivered twice", "Idempotence", "may be delivered again"),
        ("why are leaves green", "Photosynthesis", "leaves look green"),
        ("leap year 1900", "Calendars", "1900 but not in 2000"),
    ],
)
def test_search_finds_the_document_and_the_passage(query: str, title: str, passage: str) -> None:
    hits = call(load("search"), {"query": query})["hits"]

    assert hits[0]["title"] == title
    assert passage in hits[0]["snippet"]
    assert hits == sorted(hits, key=lambda hit: -hit["score"])


def test_search_for_an_unknown_word_finds_nothing() -> None:
    assert call(load("search"), {"query": "zyzzyva"}) == {
        "query": "zyzzyva",
        "found": 0,
        "hits": [],
    }


# Primes


def test_primes_stream_counts_as_mathematics_does_and_reports_ten_times() -> None:
    records = list(load("primes_stream").main({"up_to": 1_000_000}))

    assert records[-1] == {"done": True, "up_to": 1_000_000, "primes": 78_498, "largest": 999_983}
    assert len(records) == 11
    assert [one["percent"] for one in records[:-1]] == sorted(
        one["percent"] for one in records[:-1]
    )
    assert records[0]["first"] == [2, 3, 5]


@pytest.mark.parametrize(("up_to", "count"), [(2, 1), (3, 2), (4, 2), (25, 9), (100_002, 9_592)])
def test_primes_stream_is_right_at_small_and_odd_ends(up_to: int, count: int) -> None:
    *_, last = load("primes_stream").main({"up_to": up_to})

    assert last["primes"] == count


def test_primes_stream_sends_progress_before_it_is_done() -> None:
    stream = load("primes_stream").main({"up_to": 20_000_000})

    assert next(stream)["so_far"] == 9_592


# Ledger


def order(number: int, cents: int = 100) -> dict[str, Any]:
    return {
        "order_id": f"A-{number}",
        "customer": "Ada",
        "lines": [{"units": 1, "unit_cents": cents}],
    }


@pytest.fixture
def ledger_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "ledger.jsonl"
    monkeypatch.setenv("LEDGER_PATH", str(path))
    return path


def test_ledger_writes_an_order_once_however_often_it_is_delivered(ledger_path: Path) -> None:
    module, event = load("ledger"), sample_json("ledger/samples/order.json")

    first, again = call(module, event), call(module, event)

    assert first == {"order_id": "A-1001", "duplicate": False, "orders": 1, "total_cents": 30_120}
    assert again == first | {"duplicate": True}
    assert len(ledger_path.read_bytes().splitlines()) == 1


def test_ledger_instances_that_share_the_file_see_each_others_orders(ledger_path: Path) -> None:
    one, other = load("ledger"), load("ledger")

    for number in range(50):
        call(one if number % 3 else other, order(number))
    last = call(other, order(49))

    assert last == {"order_id": "A-49", "duplicate": True, "orders": 50, "total_cents": 5_000}
    assert len(ledger_path.read_bytes().splitlines()) == 50


def test_ledger_drops_a_line_cut_short_and_takes_that_order_again(ledger_path: Path) -> None:
    call(load("ledger"), order(1))
    whole = ledger_path.read_bytes()
    ledger_path.write_bytes(whole + b'{"order_id": "A-2", "cust')

    result = call(load("ledger"), order(2))

    assert result["orders"] == 2
    assert [json.loads(line)["order_id"] for line in ledger_path.open()] == ["A-1", "A-2"]


def test_ledger_starts_anew_when_its_file_was_removed(ledger_path: Path) -> None:
    module = load("ledger")
    call(module, order(1))
    ledger_path.unlink()

    assert call(module, order(2))["orders"] == 1


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"order_id": ""}, "order_id"),
        ({"lines": []}, "lines"),
        ({"lines": [{"units": -3, "unit_cents": 980}]}, "bad line"),
    ],
)
def test_ledger_refuses_an_order_that_cannot_be_right(
    bad: dict[str, Any], why: str, ledger_path: Path
) -> None:
    with pytest.raises(ValueError, match=why):
        call(load("ledger"), order(1) | bad)
    assert not ledger_path.exists()
