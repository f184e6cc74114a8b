"""Watched folders: each file once, whole, over restarts; what is not allowed is not touched."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from pratai.agent import claims
from pratai.agent.messages import Emission
from pratai.agent.sources import watch
from pratai.agent.sources.watch import FolderWatch
from pratai.config import schema
from pratai.errors import NotFound, StoreUnavailable
from pratai.model.invocation import Invocation
from pratai.model.trigger import TRIGGER_STATE, FileAfter, FolderSource, Trigger, TriggerState
from pratai.store.memory import MemoryStore


class Bench:
    """A folder, a store, a clock set by hand."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.inbox, self.done = root / "in", root / "done"
        self.inbox.mkdir()
        self.now_ms = 1_000_000
        self.store = MemoryStore()
        self.emitted: list[Emission] = []
        self.errors: list[Exception] = []
        self.config = schema.Agent(folders=str(root), folder_content_bytes_max=100)
        patch.setattr(watch, "now_ms", lambda: self.now_ms)
        patch.setattr(claims, "now_ms", lambda: self.now_ms)

    async def emit(self, emission: Emission) -> str:
        if self.errors:
            raise self.errors.pop(0)
        self.emitted.append(emission)
        accepted = await self.store.accept(
            Invocation(
                namespace="default",
                request_id=f"r{len(self.emitted)}",
                function="f",
                version="1",
                event=emission.event,
                idempotency_key=emission.idempotency_key,
            )
        )
        return accepted.request_id

    def watch(self, *triggers: Trigger, agent_id: str = "a") -> FolderWatch:
        watched = FolderWatch(self.config, agent_id, store=self.store, emit=self.emit)
        for trigger in triggers:
            watched.take(trigger)
        return watched

    def trigger(
        self, *, after: FileAfter = "keep", pattern: str = "*", path: Path | None = None
    ) -> Trigger:
        source = FolderSource(
            path=str(path or self.inbox),
            pattern=pattern,
            after=after,
            move_to=str(self.done) if after == "move" else "",
        )
        return Trigger(namespace="default", name="t", kind="folder", function="f", folder=source)

    async def looks(self, watched: FolderWatch, times: int = 3) -> None:
        for _ in range(times):
            await watched.look()
            self.now_ms += 1_000

    async def state(self) -> TriggerState:
        found = await self.store.get(TRIGGER_STATE, "default", "t")
        assert found is not None
        return msgspec.json.decode(found.body, type=TriggerState)

    async def accepted(self) -> int:
        return len(await self.store.pending())


Scene = Callable[[Bench], Awaitable[None]]
Play = Callable[[Scene], None]


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    def run(scene: Scene) -> None:
        async def whole() -> None:
            bench = Bench(tmp_path, monkeypatch)
            await bench.store.open()
            await scene(bench)

        asyncio.run(whole())

    return run


def test_a_file_becomes_one_event_that_tells_what_it_is(play: Play) -> None:
    async def scene(bench: Bench) -> None:
        file = bench.inbox / "a.csv"
        file.write_text("1,2")
        (bench.inbox / "b.txt").write_text("other")
        await bench.looks(bench.watch(bench.trigger(pattern="*.csv")), 5)

        (emission,) = bench.emitted
        event = msgspec.json.decode(emission.event)
        assert event["path"] == str(file)
        assert (event["name"], event["bytes"]) == ("a.csv", 3)
        assert event["modified_at_ms"] == file.stat().st_mtime_ns // 1_000_000
        assert base64.b64decode(event["content_base64"]) == b"1,2"
        assert emission.trigger == "folder:t"
        assert (await bench.state()).runs == 1
        assert file.exists()

    play(scene)


def test_a_file_that_still_grows_is_not_taken(play: Play) -> None:
    async def scene(bench: Bench) -> None:
        file, watched = bench.inbox / "a", bench.watch(bench.trigger())
        for text in ("1", "12", "123"):
            file.write_text(text)
            await bench.looks(watched, 1)
        assert bench.emitted == []
        await bench.looks(watched, 1)

        assert [msgspec.json.decode(item.event)["bytes"] for item in bench.emitted] == [3]

    play(scene)


def test_a_large_file_is_told_of_without_its_content(play: Play) -> None:
    async def scene(bench: Bench) -> None:
        (bench.inbox / "a").write_bytes(b"x" * 101)
        await bench.looks(bench.watch(bench.trigger()))

        assert "content_base64" not in msgspec.json.decode(bench.emitted[0].event)

    play(scene)


def test_a_file_that_is_changed_later_is_a_new_event(play: Play) -> None:
    async def scene(bench: Bench) -> None:
        file, watched = bench.inbox / "a", bench.watch(bench.trigger())
        file.write_text("one")
        await bench.looks(watched)
        file.write_text("two!")
        await bench.looks(watched)

        assert [msgspec.json.decode(item.event)["bytes"] for item in bench.emitted] == [3, 4]

    play(scene)


def test_an_accepted_file_is_moved_or_deleted(play: Play) -> None:
    async def scene(bench: Bench) -> None:
        bench.done.mkdir()
        (bench.done / "a").write_text("older")
        (bench.inbox / "a").write_text("one")
        await bench.looks(bench.watch(bench.trigger(after="move")), 5)
        moved = sorted(path.read_text() for path in bench.done.iterdir())
        (bench.inbox / "b").write_text("two")
        await bench.looks(bench.watch(bench.trigger(after="delete")), 5)

        assert moved == ["older", "one"]
        assert list(bench.inbox.iterdir()) == []
        assert len(bench.emitted) == 2
        assert (await bench.state()).taken == {}

    play(scene)


def test_an_agent_that_starts_again_takes_no_file_twice(play: Play) -> None:
    async def scene(bench: Bench) -> None:
        for number in range(40):
            (bench.inbox / f"f{number}").write_text("x")
        await bench.looks(bench.watch(bench.trigger()))
        await bench.looks(bench.watch(bench.trigger()))

        assert len(bench.emitted) == await bench.accepted() == 40

    play(scene)


def test_an_agent_killed_between_acceptance_and_writing_offers_the_same_event(play: Play) -> None:
    async def scene(bench: Bench) -> None:
        (bench.inbox / "a").write_text("x")
        await bench.looks(bench.watch(bench.trigger()))
        found = await bench.store.get(TRIGGER_STATE, "default", "t")
        assert found is not None
        await bench.store.delete(found)
        await bench.looks(bench.watch(bench.trigger(after="delete")))

        assert len(bench.emitted) == 2
        assert await bench.accepted() == 1
        assert not (bench.inbox / "a").exists()

    play(scene)


def test_an_agent_killed_before_the_file_was_deleted_deletes_it_without_an_event(
    play: Play,
) -> None:
    async def scene(bench: Bench) -> None:
        (bench.inbox / "a").write_text("x")
        await bench.looks(bench.watch(bench.trigger()))
        await bench.looks(bench.watch(bench.trigger(after="delete")), 1)

        assert len(bench.emitted) == 1
        assert not (bench.inbox / "a").exists()

    play(scene)


def test_links_and_folders_are_no_files(play: Play, tmp_path: Path) -> None:
    async def scene(bench: Bench) -> None:
        secret = tmp_path / "secret"
        secret.write_text("x")
        (bench.inbox / "link").symlink_to(secret)
        (bench.inbox / "folder").mkdir()
        os.mkfifo(bench.inbox / "pipe")
        await bench.looks(bench.watch(bench.trigger()))

        assert bench.emitted == []

    play(scene)


def test_a_folder_that_the_operator_did_not_open_is_a_failure(play: Play, tmp_path: Path) -> None:
    async def scene(bench: Bench) -> None:
        out = tmp_path / "in" / "out"
        out.symlink_to("/etc")
        await bench.looks(bench.watch(bench.trigger(path=out)))

        state = await bench.state()
        assert bench.emitted == []
        assert state.failures == 1, "told once, not at every look"
        assert "[agent] folders does not name it" in state.last_failure

    play(scene)


def test_a_folder_that_is_not_there_is_one_failure_until_it_is(play: Play) -> None:
    async def scene(bench: Bench) -> None:
        late = bench.inbox / "late"
        watched = bench.watch(bench.trigger(path=late))
        await bench.looks(watched, 4)
        state = await bench.state()
        late.mkdir()
        (late / "a").write_text("x")
        await bench.looks(watched, 4)

        assert state.failures == 1
        assert state.last_failure == f"the folder {late} cannot be read: no such file or directory"
        assert len(bench.emitted) == 1

    play(scene)


def test_a_file_whose_function_is_missing_waits_for_it(play: Play) -> None:
    async def scene(bench: Bench) -> None:
        (bench.inbox / "a").write_text("x")
        watched = bench.watch(bench.trigger(after="delete"))
        bench.errors = [NotFound("there is no function f"), StoreUnavailable("out")]
        await bench.looks(watched, 3)
        assert (bench.inbox / "a").exists()
        state = await bench.state()
        await bench.looks(watched, 20)

        assert (state.failures, state.last_failure) == (1, "there is no function f")
        assert len(bench.emitted) == 1
        assert not (bench.inbox / "a").exists()

    play(scene)


def test_of_two_agents_one_watches_and_the_other_takes_over(play: Play) -> None:
    async def scene(bench: Bench) -> None:
        first = bench.watch(bench.trigger())
        second = bench.watch(bench.trigger(), agent_id="b")
        await bench.looks(first, 1)
        (bench.inbox / "a").write_text("x")
        await bench.looks(second, 4)
        assert bench.emitted == []
        bench.now_ms += bench.config.lease_ms
        await bench.looks(second, 4)
        await second.stop()
        await first.look()

        assert len(bench.emitted) == 1

    play(scene)


def test_a_folder_that_only_one_agents_machine_has_is_watched_there(play: Play) -> None:
    async def scene(bench: Bench) -> None:
        (bench.inbox / "a").write_text("x")
        opened = bench.config
        bench.config = msgspec.structs.replace(opened, folders="/nowhere")
        without = bench.watch(bench.trigger())
        bench.config = opened
        other = bench.watch(bench.trigger(), agent_id="b")
        for _ in range(6):
            await bench.looks(without, 1)
            await bench.looks(other, 1)

        assert len(bench.emitted) == 1

    play(scene)


def test_a_paused_folder_is_not_looked_at(play: Play) -> None:
    async def scene(bench: Bench) -> None:
        trigger = bench.trigger()
        watched = bench.watch(trigger)
        watched.take(msgspec.structs.replace(trigger, paused=True))
        (bench.inbox / "a").write_text("x")
        await bench.looks(watched)

        assert (watched.watched, bench.emitted) == (0, [])

    play(scene)


def test_more_files_than_may_be_looked_at_are_told_and_worked_off(play: Play) -> None:
    async def scene(bench: Bench) -> None:
        bench.config = msgspec.structs.replace(bench.config, folder_files_max=10)
        for number in range(25):
            (bench.inbox / f"f{number}").write_text("x")
        watched = bench.watch(bench.trigger(after="delete"))
        await bench.looks(watched, 12)

        assert await bench.accepted() == len(bench.emitted) == 25
        assert list(bench.inbox.iterdir()) == []
        assert "holds more than 10 files" in (await bench.state()).last_failure

    play(scene)
