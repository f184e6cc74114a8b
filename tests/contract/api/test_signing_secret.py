"""What deliveries are signed with, told to who owns the namespace."""

from __future__ import annotations

from typing import Any

from pratai.store.signing import signing_secret


def test_a_namespace_has_one_secret_that_its_own_keys_may_read(world: Any) -> None:
    key = world.call("POST", "/v1/keys", {"namespace": "team-b"}).json()["key"]

    first = world.call("GET", "/v1/signing-secret")
    again = world.call("GET", "/v1/signing-secret")
    other = world.call("GET", "/v1/signing-secret", key=key)

    assert (first.status, first.json()["namespace"]) == (200, "default")
    assert first.json()["secret"].startswith("whsec_")
    assert again.json() == first.json()
    assert other.json()["namespace"] == "team-b"
    assert other.json()["secret"] != first.json()["secret"]
    assert world.run(signing_secret(world.store, "default")) == first.json()["secret"]
    assert world.call("GET", "/v1/signing-secret", key="").status == 401
