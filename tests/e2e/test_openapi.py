"""The served OpenAPI document against the live server: schemathesis with all its checks.

Run twice: with names and ids it makes up, and with ones that exist, so that it gets past the 404s.
`PRATAI_ST_EXAMPLES` sets how many examples for each operation (8 by default).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from platform_process import PlatformProcess

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "tests/contract/api/schemathesis.toml"
EXAMPLES = os.environ.get("PRATAI_ST_EXAMPLES", "8")
TIME_S_MAX = 60
#: Would take away what the run itself needs: its key, its function, its dead letter.
DESTROYERS = (
    "deleteKey",
    "deleteFunction",
    "deleteTrigger",
    "purgeDeadLetters",
    "purgeDeadLetter",
)
ANSWERS_ALWAYS = "def main(payload):\n    print('called')\n    return {'fine': True}\n"


@pytest.mark.timeout(240)
@pytest.mark.parametrize("known", [False, True], ids=["invented_names", "existing_names"])
def test_the_live_api_keeps_what_its_document_says(
    own_platform: PlatformProcess, known: bool
) -> None:
    own_platform.start()
    config = own_platform.directory / "schemathesis.toml"
    config.write_text((_existing(own_platform) if known else "") + CONFIG.read_text())
    command = [
        *(str(Path(sys.executable).parent / "st"), "--config-file", str(config), "run"),
        f"{own_platform.gateway_url}/v1/openapi.json",
        *("-H", f"Authorization: Bearer {own_platform.key}"),
        *("--max-examples", EXAMPLES, "--max-time", str(TIME_S_MAX), "--seed", "1"),
        *("--phases", "coverage,fuzzing" if known else "coverage,fuzzing,stateful"),
        "--no-color",
    ]
    for operation in DESTROYERS if known else ("deleteKey",):
        command += ["--exclude-operation-id", operation]

    told = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=200,
        cwd=own_platform.directory,
    )

    print(told.stdout[-1500:])
    assert told.returncode == 0, told.stdout[-6000:] + told.stderr[-2000:]
    assert " passed" in told.stdout
    assert own_platform.request("GET", "/readyz").status == 200
    assert "Traceback" not in own_platform.log()


def _existing(platform: PlatformProcess) -> str:
    """A function with an alias, a trigger and a dead letter, named to schemathesis."""
    first = platform.deploy("fine", ANSWERS_ALWAYS, public=True, retries=0)
    platform.request(
        "PUT",
        "/v1/functions/fine/aliases/live",
        body=json.dumps({"version": first["version"]}).encode(),
        headers={"content-type": "application/json"},
    )
    platform.request(
        "PUT",
        "/v1/triggers/fine",
        body=json.dumps({"function": "fine", "timer": {"cron": "0 3 * * *"}}).encode(),
        headers={"content-type": "application/json"},
    )
    platform.deploy("broken", "def main(payload):\n    raise ValueError(payload)\n", retries=0)
    request_id = platform.invoke_async("broken", 1)
    platform.wait_done(request_id)
    values = {"path.name": "fine", "path.alias": "live", "path.request_id": request_id}
    lines = [f'"{name}" = {json.dumps(value)}' for name, value in values.items()]
    return "[parameters]\n" + "\n".join(lines) + "\n\n"
