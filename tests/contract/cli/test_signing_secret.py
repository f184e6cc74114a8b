"""`pratai keys signing-secret`."""

from __future__ import annotations


def test_the_secret_alone_is_written(pratai, api):
    told = {"namespace": "default", "secret": "whsec_AAAA"}
    api.on("GET", "/v1/signing-secret", api.json(told))

    assert pratai("keys", "signing-secret").json() == told
    assert pratai("keys", "signing-secret", terminal=True).text.strip() == "whsec_AAAA"
