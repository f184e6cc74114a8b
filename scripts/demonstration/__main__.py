"""The story of the demo, step by step. Uses the command line and the HTTP API as anybody would.

How things look is in `show.py`; the processes are in `platform_process.py`; the crash is in
`crash.py`. Exit code 0 when every step went as the examples' catalog says.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import crash
import urllib3
from platform_process import DemoPlatform, SetupProblem
from show import Screen, picture_size

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


class Story:
    """The steps, and what went otherwise than told."""

    def __init__(self, platform: DemoPlatform, screen: Screen) -> None:
        self.platform = platform
        self.screen = screen
        self.problems: list[str] = []
        self.results = platform.directory / "results"
        self.catalog: dict[str, dict[str, Any]] = tomllib.loads(
            (EXAMPLES / "examples.toml").read_text("utf-8")
        )

    def tell(self) -> None:
        """All of it, in order."""
        self.results.mkdir()
        self.screen.heading("Start the platform: one command, one process tree")
        self.platform.start()
        self.screen.command(self.platform.up_command())
        self.screen.text(f"It serves at {self.platform.url}; its data is in {self.platform.data}")
        self.screen.heading(f"Deploy {len(self.catalog)} functions")
        for name in self._by_need():
            self._deploy(name)
        for name, example in self.catalog.items():
            self.screen.heading(f"{name}: {example['description']}")
            for call in example.get("invoke", []):
                self._invoke(name, call)
            for call in example.get("fn", []):
                self._web_call(name, call)
        self._explain()
        self.screen.heading("kill -9 in the middle of a batch: nothing accepted is lost")
        self.problems += crash.run(self.platform, self.screen)
        self.screen.heading("What happened, newest first")
        self._terminal("invocations", "--limit", "8")

    def _by_need(self) -> list[str]:
        """Names of the examples, each after those it needs."""
        order: list[str] = []
        for name, example in self.catalog.items():
            for one in [*example.get("needs", []), name]:
                if one not in order:
                    order.append(one)
        return order

    def _deploy(self, name: str) -> None:
        example = self.catalog[name]
        known = {
            "server": self.platform.url,
            "key": self.platform.key,
            "scratch": str(self.platform.scratch),
        }
        flags = [flag.format(**known) for flag in example.get("deploy", [])]
        path = f"examples/{example['path']}"
        shown = [flag.replace(self.platform.key, "KEY") for flag in flags]
        self.screen.command(f"pratai deploy {' '.join([path, '--name', name, *shown])}")
        code = self.platform.in_terminal(["deploy", path, "--name", name, *flags], self.screen)
        self._expect(code == 0, f"deploying {name} ended with exit code {code}")

    def _invoke(self, name: str, call: dict[str, Any]) -> None:
        event = f"@examples/{call['file']}" if "file" in call else call["json"]
        arguments = ["invoke", name, event]
        if "content_type" in call:
            arguments += ["--content-type", call["content_type"]]
        if call.get("async"):
            arguments.append("--async")
        self.screen.title(call["title"])
        self.screen.command(f"pratai invoke {name} {event if 'file' in call else repr(event)}")
        began = time.monotonic()
        if call["show"] == "lines":
            code = self.platform.stream(arguments, self.screen)
            self._expect(code == 0, f"{name}, {call['title']!r}: exit code {code}")
            return
        done = self.platform.cli(*arguments)
        took_ms = (time.monotonic() - began) * 1000
        wanted = 1 if call.get("fails") else 0
        self._expect(
            done.returncode == wanted,
            f"{name}, {call['title']!r}: exit code {done.returncode}, {done.stderr.decode()}",
        )
        if done.returncode:
            self.screen.text(done.stderr.decode().strip())
        elif call.get("async"):
            self._follow(json.loads(done.stdout)["request_id"])
        else:
            self._show(call, done.stdout)
        self.screen.remark(f"{took_ms:.0f} ms with the start of the command line program")

    def _follow(self, request_id: str) -> None:
        """An asynchronous event: accepted at once, done a little later."""
        self.screen.text(f"accepted as {request_id}")
        record = self.platform.wait_done(request_id)
        self._expect(record.get("outcome") == "succeeded", f"{request_id}: {record}")
        self.screen.value(record.get("result"))

    def _show(self, call: dict[str, Any], result: bytes) -> None:
        if call["show"] == "image":
            width, height = picture_size(result)
            self.screen.text(f"a picture of {width} x {height} pixels, {len(result):,} bytes")
            self._save(call["save"], result)
        elif call["show"] == "web":
            response = json.loads(result)
            body = response["body"]
            self._expect(response["statusCode"] == call.get("status", 200), f"status: {response}")
            self.screen.text(f"HTTP status {response['statusCode']}, {len(body):,} characters")
            if "save" in call:
                self._save(call["save"], body.encode())
            else:
                self.screen.value(json.loads(body))
        else:
            self.screen.value(json.loads(result))

    def _save(self, name: str, data: bytes) -> None:
        path = self.results / name
        path.write_bytes(data)
        self.screen.text(f"look at {path.relative_to(ROOT)}")

    def _web_call(self, name: str, call: dict[str, Any]) -> None:
        self.screen.title(f"{call['title']}: POST /fn/{name}")
        answer = urllib3.request(
            "POST",
            f"{self.platform.url}/fn/{name}",
            body=(EXAMPLES / call["file"]).read_bytes(),
            headers={
                "Content-Type": call.get("content_type", "application/json"),
                **call.get("headers", {}),
            },
        )
        wanted = call.get("status", 200)
        self._expect(answer.status == wanted, f"/fn/{name} answered {answer.status}")
        self.screen.text(f"HTTP status {answer.status}, {answer.headers.get('content-type')}")
        self.screen.value(json.loads(answer.data))

    def _explain(self) -> None:
        self.screen.heading("Why did that fail? The platform explains itself")
        page = self.platform.get("/v1/invocations?outcome=failed&limit=1")
        if not page["items"]:
            self.problems.append("no failed invocation was recorded")
            return
        self._terminal("why", page["items"][0]["request_id"])

    def _terminal(self, *arguments: str) -> None:
        self.screen.command(f"pratai {' '.join(arguments)}")
        code = self.platform.in_terminal(list(arguments), self.screen)
        self._expect(code == 0, f"pratai {arguments[0]} ended with exit code {code}")

    def _expect(self, fact: bool, otherwise: str) -> None:
        if not fact:
            self.problems.append(otherwise)
            self.screen.problem(otherwise)


def main() -> int:
    """Tell the story; leave the platform running unless `--once`."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description="Pratai in a minute.")
    parser.add_argument("--once", action="store_true", help="stop everything at the end")
    once = parser.parse_args().once
    screen = Screen()
    platform = DemoPlatform(ROOT)
    story = Story(platform, screen)
    began = time.monotonic()
    ended = False
    try:
        platform.clear_earlier()
        story.tell()
        ended = True
    except SetupProblem as why:
        story.problems.append(str(why))
    except KeyboardInterrupt:
        story.problems.append("interrupted")
    finally:
        if once or not ended:
            code = platform.stop()
            if code:
                story.problems.append(f"the platform stopped with exit code {code}")
            if platform.outside is not None:
                shutil.rmtree(platform.outside, ignore_errors=True)
    screen.ending(f"Done in {time.monotonic() - began:.0f} s")
    for problem in story.problems:
        screen.problem(problem)
    if ended and not once:
        screen.farewell(platform)
    return 1 if story.problems else 0


if __name__ == "__main__":
    sys.exit(main())
