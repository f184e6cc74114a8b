"""The handler is found by reading the code, never by running it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pratai.errors import InvalidField
from pratai.packages.handler import HandlerNotFound, check_handler, find_handler, read_module

MAIN = "def main(payload):\n    return payload\n"
HANDLER = "def handler(event, context):\n    return event\n"


def package(folder: Path, **files: str) -> str:
    for name, text in files.items():
        path = folder / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(folder)


def refusal(folder: str, handler: str = "") -> InvalidField:
    find = (lambda: check_handler([folder], handler)) if handler else lambda: find_handler(folder)
    with pytest.raises(InvalidField) as caught:
        find()
    assert caught.value.next_step
    return caught.value


@pytest.mark.parametrize(
    ("module", "text", "entry"),
    [
        ("main", MAIN, "main:main"),
        ("main", "async def main(payload):\n    return 1\n", "main:main"),
        ("app", HANDLER, "app:handler"),
        ("lambda_function", "def lambda_handler(event, context): ...\n", None),
        ("function", MAIN, "function:main"),
        ("whatever", MAIN, "whatever:main"),
        ("main", "def main(payload, *, depth=1):\n    return 1\n", "main:main"),
        ("main", "def main(*args):\n    return 1\n", "main:main"),
        ("main", "try:\n    import x\nexcept ImportError:\n    x = 1\n" + MAIN, "main:main"),
        ("main", "if True:\n    def main(payload):\n        return 1\n", "main:main"),
        ("main", "@traced\n" + MAIN, "main:main"),
        ("app", "from mangum import Mangum\nhandler = Mangum(app)\n", "app:handler"),
        ("main", "def main(payload, context):\n    return 1\n", "main:main"),
        ("main", MAIN + "def handler(event):\n    return 1\n", "main:main"),
    ],
)
def test_the_one_candidate_is_the_handler(
    tmp_path: Path, module: str, text: str, entry: str | None
) -> None:
    found = find_handler(package(tmp_path, **{module: text}))
    assert found == (entry or "lambda_function:lambda_handler")


def test_finding_a_handler_runs_nothing(tmp_path: Path) -> None:
    folder = package(tmp_path, main="raise SystemExit(1)\n" + MAIN)
    assert find_handler(folder) == "main:main"


def test_several_candidates_are_listed_with_the_flags_to_give(tmp_path: Path) -> None:
    error = refusal(package(tmp_path, main=MAIN + HANDLER, app=HANDLER))
    assert isinstance(error, HandlerNotFound)
    assert error.field == "handler"
    assert error.allowed == ["main:main", "main:handler", "app:handler"]
    assert "--handler main:handler" in error.next_step


@pytest.mark.parametrize(
    "text",
    [
        "def run(payload):\n    return 1\n",
        "def main():\n    return 1\n",
        "class main:\n    pass\n",
        "def main(a, b, c):\n    return 1\n",
        "def main(payload, *, depth):\n    return 1\n",
        "",
    ],
)
def test_no_candidate_is_told_with_what_to_write(tmp_path: Path, text: str) -> None:
    error = refusal(package(tmp_path, main=text))
    assert isinstance(error, HandlerNotFound)
    assert "--handler module:function" in error.next_step


def test_several_modules_of_unusual_names_need_a_named_handler(tmp_path: Path) -> None:
    assert "no Python module" in refusal(package(tmp_path, a=MAIN, b=MAIN)).detail
    assert "no Python module" in refusal(package(tmp_path / "none", lib__a=MAIN)).detail


def test_tests_and_set_up_files_are_no_modules_of_the_function(tmp_path: Path) -> None:
    folder = package(tmp_path, job=MAIN, test_job=MAIN, setup=MAIN, conftest=MAIN)
    assert find_handler(folder) == "job:main"


def test_the_handler_of_the_version_before_is_kept_while_it_exists(tmp_path: Path) -> None:
    folder = package(tmp_path, main=MAIN + HANDLER, jobs="def nightly(payload): ...\n")
    assert find_handler(folder, preferred="main:handler") == "main:handler"
    assert find_handler(folder, preferred="jobs:nightly") == "jobs:nightly"
    with pytest.raises(HandlerNotFound):
        find_handler(folder, preferred="jobs:weekly")


@pytest.mark.parametrize(
    ("text", "function"),
    [
        (MAIN, "main"),
        ("from x import run\n", "run"),
        ("import run\n", "run"),
        ("run = make()\n", "run"),
        ("a, (run, *b) = make()\n", "run"),
        ("run: object = make()\n", "run"),
        ("class run:\n    pass\n", "run"),
        ("from x import *\n", "anything"),
        ("def __getattr__(name):\n    return 1\n", "anything"),
        ("globals()['anything'] = 1\n", "anything"),
        ("with a:\n    def run(): ...\n", "run"),
        ("for i in ():\n    pass\nelse:\n    def run(): ...\n", "run"),
    ],
)
def test_a_named_handler_exists_if_reading_can_show_it_or_cannot_tell(
    tmp_path: Path, text: str, function: str
) -> None:
    folder = package(tmp_path, pkg__sub=text)
    check_handler([folder], f"pkg.sub:{function}")


def test_a_named_function_that_is_not_there_is_told_with_the_nearest(tmp_path: Path) -> None:
    error = refusal(package(tmp_path, main=MAIN + HANDLER), "main:hanlder")
    assert isinstance(error, HandlerNotFound)
    assert (error.field, error.value) == ("handler", "main:hanlder")
    assert "main:handler" in error.next_step
    assert error.allowed == ["main:handler", "main:main"]


def test_a_named_module_that_is_not_there_is_told_with_the_nearest(tmp_path: Path) -> None:
    error = refusal(package(tmp_path, jobs__nightly=MAIN), "jobs.nigthly:main")
    assert "--handler jobs.nightly:main" in error.next_step


def test_a_module_may_be_a_package_or_compiled(tmp_path: Path) -> None:
    folder = package(tmp_path, pkg__sub=MAIN)
    (tmp_path / "pkg" / "__init__.py").write_text(MAIN)
    (tmp_path / "faster.so").write_bytes(b"")
    (tmp_path / "fast.cpython-311-x86_64-linux-gnu.so").write_bytes(b"")
    check_handler([folder], "pkg:main")
    check_handler([folder], "fast:anything")
    check_handler([folder], "faster:anything")
    with pytest.raises(HandlerNotFound):
        check_handler([folder], "fas:anything")


def test_the_handlers_module_may_be_among_the_dependencies(tmp_path: Path) -> None:
    code, layer = package(tmp_path / "code", main=MAIN), package(tmp_path / "layer", wrap=HANDLER)
    check_handler([code, layer], "wrap:handler")
    with pytest.raises(HandlerNotFound):
        check_handler([code], "wrap:handler")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (b"def main(payload)\n    return 1\n", "main.py:1"),
        (b"x = 1\ndef f(:\n", "main.py:2"),
        (b"\xff\xfe", "main.py"),
        (b"# coding: nothing\n", "main.py"),
        (b"x = " + b"-" * 100_000 + b"1\n", "nested too deeply"),
        (b"x = a" + b".b" * 100_000 + b"\n", "nested too deeply"),
        (b"(" * 10_000, "main.py"),
        (b"<html>\n", "main.py:1"),
    ],
)
def test_source_that_is_not_python_is_refused_with_file_and_line(
    tmp_path: Path, source: bytes, words: str
) -> None:
    (tmp_path / "main.py").write_bytes(source)
    error = refusal(str(tmp_path))
    assert error.field == "package"
    assert words in error.detail


def test_reading_code_that_would_warn_is_quiet(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text('x = "\\d"\n1 is 1\n' + MAIN)
    assert set(read_module(str(tmp_path / "main.py"), "main.py").names) == {"x", "main"}
