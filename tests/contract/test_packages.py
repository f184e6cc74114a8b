"""Packages and layers on a real disk, with the real resolver where dependencies are asked for."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import select
import stat
import subprocess
import sys
import zipfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from pratai.config.index import resolver_environment
from pratai.config.schema import Packages as Limits
from pratai.errors import CallerError, InvalidField, NotFound, PlatformError
from pratai.model.function import FunctionConfig
from pratai.packages import tree
from pratai.packages.directory import UNUSED_AGE_MIN_MS, Inspected, Packages
from pratai.packages.handler import HandlerNotFound
from pratai.packages.layers import Layers
from pratai.packages.resolver import LayerProgress, explain

RUNTIME = f"python{sys.version_info.major}.{sys.version_info.minor}"
CODE = b"def main(payload):\n    return payload\n"
HANDLER = b"def handler(event, context):\n    return event\n"
SIX = b'# /// script\n# dependencies = ["six==1.17.0"]\n# ///\nimport six\n' + CODE

T = TypeVar("T")


def zipped(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/").replace("_dot_", "."), content)
    return buffer.getvalue()


def run(data_dir: Path, work: Callable[[Packages], Awaitable[T]], **options: object) -> T:
    async def whole() -> T:
        limits = options.pop("limits", Limits())
        packages = Packages(str(data_dir), limits, **options)  # type: ignore[arg-type]
        try:
            return await asyncio.wait_for(work(packages), 100)
        finally:
            await packages.close()

    return asyncio.run(whole())


def inspect(
    data_dir: Path,
    data: bytes,
    given: dict[str, object] | None = None,
    previous: FunctionConfig | None = None,
    **options: object,
) -> Inspected:
    return run(
        data_dir, lambda packages: packages.inspect_package(data, given or {}, previous), **options
    )


def age(path: Path, age_ms: int) -> None:
    at = path.stat().st_mtime - age_ms / 1000
    os.utime(path, (at, at))


# Packages


def test_a_package_is_kept_byte_for_byte_under_its_digest(tmp_path: Path) -> None:
    data = zipped(main_dot_py=CODE)

    async def work(packages: Packages) -> bytes:
        saved = await packages.save(data)
        assert (saved.digest, saved.bytes) == (hashlib.sha256(data).hexdigest(), len(data))
        assert saved.kind == "zip"
        return await packages.read(saved.digest)

    assert run(tmp_path, work) == data
    assert os.listdir(tmp_path / "packages") == [hashlib.sha256(data).hexdigest()]


def test_the_same_upload_at_the_same_time_is_kept_once(tmp_path: Path) -> None:
    async def work(packages: Packages) -> list[str]:
        saved = await asyncio.gather(*(packages.save(CODE) for _ in range(8)))
        dirs = await asyncio.gather(*(packages.code_dir(saved[0].digest) for _ in range(8)))
        assert len(set(dirs)) == 1
        return [one.digest for one in saved]

    digests = set(run(tmp_path, work))
    assert os.listdir(tmp_path / "packages") == list(digests)
    assert os.listdir(tmp_path / "unpacked") == list(digests)


def test_a_hostile_upload_leaves_nothing_on_disk(tmp_path: Path) -> None:
    evil = zipped(**{".._dot_/x": CODE})
    with pytest.raises(InvalidField):
        run(tmp_path, lambda packages: packages.save(evil.replace(b".../", b"../.")))
    assert not (tmp_path / "packages").exists()


def test_the_unpacked_code_is_made_again_when_it_is_gone_or_changed(tmp_path: Path) -> None:
    async def work(packages: Packages) -> str:
        digest = (await packages.save(zipped(main_dot_py=CODE, a_dot_txt=b"abc"))).digest
        return await packages.code_dir(digest)

    code_dir = Path(run(tmp_path, work))
    assert stat.S_IMODE(code_dir.stat().st_mode) == 0o555
    (code_dir / "a.txt").chmod(0o644)
    (code_dir / "a.txt").write_bytes(b"evil")
    assert Path(run(tmp_path, work), "a.txt").read_bytes() == b"abc"
    tree.remove(str(code_dir))
    assert Path(run(tmp_path, work), "a.txt").read_bytes() == b"abc"


def test_code_removed_under_a_running_platform_is_made_again(tmp_path: Path) -> None:
    async def work(packages: Packages) -> Path:
        digest = (await packages.save(CODE)).digest
        tree.remove(await packages.code_dir(digest))
        return Path(await packages.code_dir(digest))

    assert (run(tmp_path, work) / "main.py").read_bytes() == CODE


def test_a_damaged_package_is_told_and_mended_by_deploying_again(tmp_path: Path) -> None:
    async def work(packages: Packages) -> bytes:
        digest = (await packages.save(CODE)).digest
        path = tmp_path / "packages" / digest
        path.chmod(0o644)
        path.write_bytes(CODE.replace(b"payload", b"PAYLOAD"))
        with pytest.raises(PlatformError, match="changed on disk"):
            await packages.code_dir(digest)
        await packages.save(CODE)
        return await packages.read(digest)

    assert run(tmp_path, work) == CODE


@pytest.mark.parametrize("digest", ["0" * 64, "", "../../etc/passwd", "x"])
def test_a_digest_that_names_no_package_is_not_found(tmp_path: Path, digest: str) -> None:
    with pytest.raises(NotFound):
        run(tmp_path, lambda packages: packages.read(digest))
    with pytest.raises(NotFound):
        run(tmp_path, lambda packages: packages.code_dir(digest))


def test_a_sweep_removes_what_is_old_and_unused_alone(tmp_path: Path) -> None:
    async def work(packages: Packages) -> None:
        used, old, young = [(await packages.save(CODE + str(n).encode())).digest for n in range(3)]
        for digest in (used, old, young):
            await packages.code_dir(digest)
        for name in ("layer-used", "f" * 64, ".unfinished-x"):
            (tmp_path / "layers" / name).mkdir(parents=True)
            age(tmp_path / "layers" / name, 2 * UNUSED_AGE_MIN_MS)
        for folder in ("packages", "unpacked"):
            for digest in (used, old):
                age(tmp_path / folder / digest, 2 * UNUSED_AGE_MIN_MS)
        removed = await packages.remove_unused({used, "layer-used"})
        assert (removed.packages, removed.layers) == (1, 1)
        assert sorted(os.listdir(tmp_path / "packages")) == sorted([used, young])
        assert sorted(os.listdir(tmp_path / "unpacked")) == sorted([used, young])
        assert os.listdir(tmp_path / "layers") == ["layer-used"]
        assert await packages.read(used)

    run(tmp_path, work)


# From an upload to a configuration


def test_a_source_file_is_found_its_handler_and_runtime(tmp_path: Path) -> None:
    found = inspect(tmp_path, CODE, {"memory_mb": 512})
    assert found.config == FunctionConfig(handler="main:main", runtime=RUNTIME, memory_mb=512)
    assert (found.layer, found.package_bytes) == ("", len(CODE))


def test_the_module_of_a_single_file_may_be_called_as_its_file_was(tmp_path: Path) -> None:
    assert inspect(tmp_path, HANDLER, {"handler": "hello.handler"}).config.handler == "main:handler"


def test_a_folder_left_off_may_be_named_in_the_handler(tmp_path: Path) -> None:
    data = zipped(hello__main_dot_py=HANDLER, hello__x_dot_py=CODE)
    assert (
        inspect(tmp_path, data, {"handler": "hello.main:handler"}).config.handler == "main:handler"
    )
    assert inspect(tmp_path, data, {"handler": "main:handler"}).config.handler == "main:handler"


def test_settings_of_the_package_lie_between_the_version_before_and_what_is_given(
    tmp_path: Path,
) -> None:
    project = b'[tool.pratai]\nmemory_mb = 128\ntimeout_ms = 5\nenvironment = {A="1", B="1"}\n'
    data = zipped(main_dot_py=CODE, pyproject_dot_toml=project)
    previous = FunctionConfig(handler="gone:main", memory_mb=64, retries=7)
    given = {"timeout_ms": 9, "environment": {"B": "2"}}
    config = inspect(tmp_path, data, given, previous).config
    assert (config.memory_mb, config.timeout_ms, config.retries) == (128, 9, 7)
    assert config.environment == {"A": "1", "B": "2"}
    assert config.handler == "main:main"


def test_a_change_of_configuration_alone_takes_nothing_from_the_package_again(
    tmp_path: Path,
) -> None:
    project = b"[tool.pratai]\nmemory_mb = 128\n"
    data = zipped(main_dot_py=CODE, jobs_dot_py=HANDLER, pyproject_dot_toml=project)
    first = inspect(tmp_path, data, {"memory_mb": 512, "handler": "jobs:handler"})
    second = run(
        tmp_path,
        lambda packages: packages.inspect_saved(first.digest, {"timeout_ms": 7}, first.config),
    )
    assert second.config.memory_mb == 512
    assert second.config.timeout_ms == 7
    assert second.config.handler == "jobs:handler"
    with pytest.raises(HandlerNotFound):
        run(
            tmp_path,
            lambda packages: packages.inspect_saved(first.digest, {"handler": "a:b"}, first.config),
        )


def test_a_header_may_name_the_handler(tmp_path: Path) -> None:
    source = b'# /// script\n# [tool.pratai]\n# handler = "main:run"\n# ///\ndef run(x): ...\n'
    assert inspect(tmp_path, source).config.handler == "main:run"


def test_a_wrong_setting_of_the_package_says_where_it_is(tmp_path: Path) -> None:
    data = zipped(main_dot_py=CODE, pyproject_dot_toml=b"[tool.pratai]\nmemroy_mb = 1\n")
    with pytest.raises(InvalidField) as caught:
        inspect(tmp_path, data)
    assert "[tool.pratai]" in caught.value.detail
    assert "memory_mb" in caught.value.next_step


def test_a_wrong_configuration_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidField):
        inspect(tmp_path, CODE, {"memory_mb": 1})
    assert os.listdir(tmp_path) == []


def test_a_python_that_the_package_does_not_allow_is_refused(tmp_path: Path) -> None:
    source = b'# /// script\n# requires-python = ">=3.99"\n# ///\n' + CODE
    with pytest.raises(InvalidField) as caught:
        inspect(tmp_path, source)
    assert caught.value.field == "runtime"
    assert ">=3.99" in caught.value.detail


def test_the_first_runtime_that_fits_is_taken(tmp_path: Path) -> None:
    source = b'# /// script\n# requires-python = ">=3.12"\n# ///\n' + CODE
    found = inspect(tmp_path, source, runtimes=["python3.11", "python3.12", "python3.13"])
    assert found.config.runtime == "python3.12"


def test_another_language_needs_a_named_handler(tmp_path: Path) -> None:
    data = zipped(index_dot_js=b"exports.handler = async () => 1\n")
    runtimes = [RUNTIME, "node22"]
    with pytest.raises(HandlerNotFound):
        inspect(tmp_path, data, {"runtime": "node22"}, runtimes=runtimes)
    given = {"runtime": "node22", "handler": "index.handler"}
    found = inspect(tmp_path, data, given, runtimes=runtimes)
    assert (found.config.handler, found.layer) == ("index:handler", "")


# Layers


def test_dependencies_become_a_layer_that_is_made_once(tmp_path: Path) -> None:
    seen: list[LayerProgress] = []

    async def work(packages: Packages) -> Inspected:
        first, again = await asyncio.gather(
            packages.inspect_package(SIX, {}, None, seen.append),
            packages.inspect_package(SIX + b"\nx = 1\n", {}),
        )
        assert first.layer == again.layer
        assert first.digest != again.digest
        later: list[LayerProgress] = []
        await packages.inspect_package(SIX, {}, None, later.append)
        assert [progress.phase for progress in later] == ["ready"]
        return first

    found = run(tmp_path, work)
    layer = tmp_path / "layers" / found.layer
    assert os.listdir(tmp_path / "layers") == [found.layer]
    assert {"six.py", "__pycache__"} <= set(os.listdir(layer))
    assert stat.S_IMODE((layer / "six.py").stat().st_mode) == 0o444
    assert seen[0].phase == "resolving"
    assert seen[-1].phase == "ready"
    assert any(progress.total == 1 for progress in seen)
    printed = subprocess.run(
        [sys.executable, "-S", "-c", "import six; print(six.__version__)"],
        env={"PYTHONPATH": str(layer)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert printed.stdout == "1.17.0\n"


def test_a_requirement_that_does_not_exist_is_the_callers_error(tmp_path: Path) -> None:
    source = SIX.replace(b"six==1.17.0", b"six==0.0.0.1")
    with pytest.raises(CallerError) as caught:
        inspect(tmp_path, source)
    assert caught.value.code == "dependencies_failed"
    assert "six" in caught.value.detail
    assert caught.value.next_step
    assert os.listdir(tmp_path / "layers") == []


def test_a_handler_may_come_from_a_dependency(tmp_path: Path) -> None:
    files = {"requirements_dot_txt": b"six==1.17.0\n", "main_dot_py": CODE}
    found = inspect(tmp_path, zipped(**files), {"handler": "six:u"})
    assert found.config.handler == "six:u"
    with pytest.raises(HandlerNotFound):
        inspect(tmp_path, zipped(**files), {"handler": "sixx:u"})


def test_markers_that_exclude_everything_give_an_empty_layer(tmp_path: Path) -> None:
    data = zipped(main_dot_py=CODE, requirements_dot_txt=b"six; python_version < '3'\n")
    found = inspect(tmp_path, data)
    assert os.listdir(tmp_path / "layers" / found.layer) == []


def layers_of(tmp_path: Path, script: str, limits: Limits) -> Layers:
    """Layers whose interpreter is no Python: the resolver fails, hangs or floods as scripted."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return Layers(
        str(tmp_path / "layers"),
        limits,
        interpreters={"python3.99": str(program)},
        environment=dict(os.environ),
    )


def ends_soon(pid: int) -> bool:
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([watched], [], [], 20)[0])
    finally:
        os.close(watched)


def test_a_resolver_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    layers = layers_of(
        tmp_path, f"echo $$ > {mark}; exec tail -f /dev/null", Limits(layer_timeout_ms=700)
    )
    with pytest.raises(CallerError, match="longer than 700 ms"):
        asyncio.run(layers.ensure(["six"], "python3.99"))
    assert os.listdir(tmp_path / "layers") == []
    assert ends_soon(int(mark.read_text()))


def test_closing_ends_a_run_and_leaves_nothing(tmp_path: Path) -> None:
    layers = layers_of(tmp_path, "exec tail -f /dev/null", Limits())

    async def work() -> None:
        started = asyncio.Event()
        waiting = asyncio.create_task(
            layers.ensure(["six"], "python3.99", lambda _progress: started.set())
        )
        await asyncio.wait_for(started.wait(), 30)
        await layers.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(work())
    assert os.listdir(tmp_path / "layers") == []


def test_a_caller_who_goes_does_not_end_the_run_of_others(tmp_path: Path) -> None:
    layers = Layers(str(tmp_path / "layers"), Limits(), environment=dict(os.environ))

    async def work() -> str:
        started = asyncio.Event()
        first = asyncio.create_task(
            layers.ensure(["six==1.17.0"], RUNTIME, lambda _progress: started.set())
        )
        second = asyncio.create_task(layers.ensure(["six==1.17.0"], RUNTIME))
        await asyncio.wait_for(started.wait(), 30)
        first.cancel()
        return await second

    digest = asyncio.run(work())
    assert os.path.isdir(layers.directory(digest))


def test_a_layer_above_its_limit_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(CallerError, match="more than 1000 bytes"):
        inspect(tmp_path, SIX, limits=Limits(layer_bytes_max=1_000))
    assert os.listdir(tmp_path / "layers") == []


def test_no_network_is_the_platforms_trouble(tmp_path: Path) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "UV_OFFLINE": "1",
        "UV_CACHE_DIR": str(tmp_path / "cache"),
        "PIP_CONFIG_FILE": "/dev/null",
    }
    with pytest.raises(PlatformError) as caught:
        inspect(tmp_path / "data", SIX, environment=environment)
    assert caught.value.code == "dependencies_unreachable"
    assert "network" in caught.value.next_step


def test_a_runtime_that_is_no_python_here_is_refused(tmp_path: Path) -> None:
    layers = Layers(str(tmp_path), Limits(), environment={})
    with pytest.raises(InvalidField) as caught:
        asyncio.run(layers.ensure(["six"], "python2.1"))
    assert caught.value.field == "runtime"


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (
            "error: No solution found\n  cause: Because x was not found in the package registry",
            "dependencies_failed",
        ),
        (
            "error: Request failed after 3 retries\n  cause: dns error: no such host",
            "dependencies_unreachable",
        ),
        (
            "error: Failed to fetch: `https://h/simple/x/`\n  cause: HTTP status client error (401 Unauthorized)",
            "dependencies_unreachable",
        ),
        (
            "error: Failed to fetch: `https://h/x.whl`\n  cause: HTTP status client error (404 Not Found)",
            "dependencies_failed",
        ),
        ("", "dependencies_failed"),
    ],
)
def test_what_the_resolver_says_tells_whose_fault_it_is(said: str, code: str) -> None:
    error = explain(said.splitlines(), 2)
    assert error.code == code
    assert error.next_step


def test_a_dependency_without_a_wheel_is_told_what_would_build_it() -> None:
    lines = ["error: Because x==1 has no usable wheels and building from source is disabled"]
    assert "source_builds" in explain(lines, 1).next_step


def test_the_resolver_never_sees_the_platforms_own_keys() -> None:
    assert not [name for name in resolver_environment({"PRATAI_KEY": "x"}) if "PRATAI" in name]
