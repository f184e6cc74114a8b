"""Functions, versions, aliases, nodes, runtimes and keys: what is asked and what is shown."""

from __future__ import annotations

VERSION = {
    "name": "hello",
    "version": "3",
    "digest": "ab" * 32,
    "package_bytes": 2048,
    "layer": "",
    "runtime": "python3.11",
    "handler": "main:main",
    "memory_mb": 256,
    "timeout_ms": 30_000,
    "created_at_ms": 1_700_000_000_000,
    "description": "first",
    "latest": True,
    "aliases": ["live"],
}
NODE = {
    "node_id": "node-1",
    "state": "ready",
    "driver": "process",
    "runtimes": ["python3.11"],
    "slots": 64,
    "slots_busy": 3,
    "memory_mb": 2048,
    "instances": 4,
    "architecture": "x86_64",
    "degraded": [],
    "joined_at_ms": 1_700_000_000_000,
    "heard_at_ms": 1_700_000_000_000,
}
KEY_VIEW = {
    "key_id": "0123456789abcdef",
    "namespace": "default",
    "admin": False,
    "label": "ci",
    "created_at_ms": 1_700_000_000_000,
}


def test_functions_are_a_table_in_a_terminal_and_json_when_piped(pratai, api):
    page = {"items": [api.function(), api.function(name="other")], "next_cursor": ""}
    api.on("GET", "/v1/functions", api.json(page))

    piped, typed = pratai("functions"), pratai("functions", terminal=True)

    assert piped.json() == page
    header, first, second = typed.text.splitlines()
    assert header.split()[:3] == ["name", "version", "runtime"]
    assert first.split()[:4] == ["hello", "3", "python3.11", "active"]
    assert second.startswith("other")
    assert api.asked[0].query == {"limit": "50"}


def test_a_field_that_a_newer_server_adds_is_passed_on(pratai, api):
    page = {"items": [api.function(colour="blue")], "next_cursor": ""}
    api.on("GET", "/v1/functions", api.json(page))

    assert pratai("functions").json() == page


def test_pages_are_followed_only_when_asked(pratai, api):
    first = {"items": [api.function(name="a")], "next_cursor": "a"}
    second = {"items": [api.function(name="b")], "next_cursor": ""}
    api.on(
        "GET",
        "/v1/functions",
        lambda asked: api.json(second if asked.query.get("cursor") else first),
    )

    one = pratai("functions", "--limit", "1")
    both = pratai("functions", "--limit", "1", "--all")
    next_one = pratai("functions", "--cursor", "a")

    assert one.json() == first
    assert [item["name"] for item in both.json()["items"]] == ["a", "b"]
    assert both.json()["next_cursor"] == ""
    assert next_one.json() == second
    assert {item.connection for item in api.asked[1:3]} == {api.asked[1].connection}


def test_in_a_terminal_the_next_page_is_named(pratai, api):
    api.on("GET", "/v1/functions", api.json({"items": [api.function()], "next_cursor": "hello"}))

    assert "--cursor hello" in pratai("functions", terminal=True).err


def test_no_functions_is_said_with_what_to_do(pratai, api):
    api.on("GET", "/v1/functions", api.json({"items": [], "next_cursor": ""}))

    assert "pratai deploy PATH" in pratai("functions", terminal=True).text


def test_a_function_is_shown_with_its_configuration(pratai, api):
    api.on("GET", "/v1/functions/hello", api.json(api.function()))

    typed = pratai("function", "show", "hello", terminal=True)

    assert pratai("function", "show", "hello").json() == api.function()
    assert "STAGE=test" in typed.text
    assert "30,000 ms" in typed.text


def test_a_name_with_odd_characters_is_quoted_in_the_path(pratai, api):
    api.on("GET", "/v1/functions/a/b?c", api.json(api.function()))

    assert pratai("function", "show", "a/b?c").code == 0


def test_delete_deletes(pratai, api):
    api.on("DELETE", "/v1/functions/hello", api.reply(status=204))

    assert pratai("function", "delete", "hello").json() == {"deleted": "hello"}
    assert pratai("function", "delete", "hello", terminal=True).text == "Deleted hello.\n"


def test_versions_are_listed_with_the_latest_marked(pratai, api):
    older = {**VERSION, "version": "2", "latest": False, "aliases": []}
    page = {"items": [VERSION, older], "next_cursor": ""}
    api.on("GET", "/v1/functions/hello/versions", api.json(page))

    typed = pratai("function", "versions", "hello", terminal=True)

    assert pratai("function", "versions", "hello").json() == page
    assert "*3" in typed.text
    assert "*2" not in typed.text


def test_publish_sends_its_description(pratai, api):
    api.on("POST", "/v1/functions/hello/versions", api.json(VERSION))

    ran = pratai("function", "publish", "hello", "--description", "first")

    asked = api.only("POST", "/v1/functions/hello/versions")
    assert ran.json() == VERSION
    assert asked.json() == {"description": "first"}
    assert asked.headers["content-type"] == "application/json"


def test_rollback_names_a_version_or_none(pratai, api):
    api.on("POST", "/v1/functions/hello/rollback", api.json(api.function(version="2")))

    pratai("function", "rollback", "hello")
    typed = pratai("function", "rollback", "hello", "2", terminal=True)

    assert [item.json() for item in api.asked] == [{"version": ""}, {"version": "2"}]
    assert typed.text.startswith("hello runs version 2 again")


def test_an_alias_is_set_with_shares(pratai, api):
    view = {"name": "live", "version": "3", "weights": {"4": 0.1}}
    api.on("PUT", "/v1/functions/hello/aliases/live", api.json(view, 201))

    ran = pratai("alias", "set", "hello", "live", "3", "--weight", "4=0.1")
    typed = pratai("alias", "set", "hello", "live", "3", terminal=True)

    assert ran.json() == view
    assert api.asked[0].json() == {"version": "3", "weights": {"4": 0.1}}
    assert typed.text == "hello:live means version 3, and 10% of calls go to version 4.\n"


def test_aliases_are_listed_and_deleted(pratai, api):
    page = {"items": [{"name": "live", "version": "3", "weights": {}}], "next_cursor": ""}
    api.on("GET", "/v1/functions/hello/aliases", api.json(page))
    api.on("DELETE", "/v1/functions/hello/aliases/live", api.reply(status=204))

    assert pratai("alias", "list", "hello").json() == page
    assert pratai("alias", "list", "hello", terminal=True).text.splitlines()[1].split() == [
        "live",
        "3",
    ]
    assert pratai("alias", "delete", "hello", "live").json() == {"deleted": "live"}


def test_nodes_are_listed_and_shown(pratai, api):
    page = {"items": [NODE], "next_cursor": ""}
    api.on("GET", "/v1/nodes", api.json(page))

    typed = pratai("nodes", terminal=True)
    missing = pratai("node", "show", "node-2")

    assert pratai("nodes").json() == page
    assert "3/64" in typed.text
    assert pratai("node", "show", "node-1").json() == NODE
    assert "3 of 64 slots" in pratai("node", "show", "node-1", terminal=True).text
    assert (missing.code, missing.err.splitlines()[0]) == (2, "There is no node node-2.")


def test_a_node_is_drained_and_undrained(pratai, api):
    api.on("POST", "/v1/nodes/node-1/drain", api.json({**NODE, "state": "draining"}))
    api.on("POST", "/v1/nodes/node-1/undrain", api.json(NODE))

    assert pratai("node", "drain", "node-1").json()["state"] == "draining"
    assert pratai("node", "undrain", "node-1").json()["state"] == "ready"


def test_runtimes_are_listed(pratai, api):
    runtime = {"name": "python3.11", "language": "python", "version": "3.11", "default": True}
    api.on("GET", "/v1/runtimes", api.json({"items": [runtime], "next_cursor": ""}))

    assert pratai("runtimes").json()["items"] == [runtime]
    assert pratai("runtimes", terminal=True).text.splitlines()[1].split()[-1] == "yes"


def test_a_key_is_made_and_shown_once(pratai, api):
    made = {**KEY_VIEW, "key": "pratai_secret"}
    api.on("POST", "/v1/keys", api.json(made, 201))

    ran = pratai("keys", "create", "--label", "ci", "--namespace", "team")
    typed = pratai("keys", "create", "--admin", terminal=True)

    assert ran.json() == made
    assert api.asked[0].json() == {"namespace": "team", "admin": False, "label": "ci"}
    assert api.asked[1].json() == {"namespace": "", "admin": True, "label": ""}
    assert typed.text == "pratai_secret\n"


def test_keys_are_listed_and_revoked(pratai, api):
    page = {"items": [KEY_VIEW], "next_cursor": ""}
    api.on("GET", "/v1/keys", api.json(page))
    api.on("DELETE", "/v1/keys/0123456789abcdef", api.reply(status=204))

    assert pratai("keys", "list").json() == page
    assert "0123456789abcdef" in pratai("keys", "list", terminal=True).text
    assert pratai("keys", "delete", "0123456789abcdef").json() == {"deleted": "0123456789abcdef"}
