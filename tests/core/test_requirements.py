"""What a package asks for, in one spelling, and what it may not ask for."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pratai.errors import InvalidField
from pratai.packages.requirements import (
    check_python,
    layer_digest,
    normalise,
    parse_requirements,
    script_header,
    wanted_of,
)

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
HEADER = '''#!/usr/bin/env python
# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "Requests[socks] >= 2.31",
#   "six",
# ]
#
# [tool.pratai]
# memory_mb = 128
# environment = { A = "1" }
# ///
"""Words."""

def main(payload):
    return 1
'''


def refusal(text: str) -> InvalidField:
    with pytest.raises(InvalidField) as caught:
        parse_requirements(text)
    assert caught.value.field == "requirements"
    assert "requirements.txt:" in caught.value.detail
    assert caught.value.next_step
    return caught.value


def test_requirements_have_one_spelling() -> None:
    text = """\ufeff# what we need
Django >= 4.2 , <6   # the web
zope.Interface[Test,a_b]==5.0

six==1.17.0 \\
    --hash=sha256:BBBB \\
    --hash=sha256:aaaa
tomli; python_version<'3.11'
pkg @ https://example.org/pkg-1.0-py3-none-any.whl#sha256=ab
"""
    assert parse_requirements(text) == [
        "django<6,>=4.2",
        "zope-interface[a-b,test]==5.0",
        "six==1.17.0 --hash=sha256:aaaa --hash=sha256:bbbb",
        'tomli ; python_version < "3.11"',
        "pkg @ https://example.org/pkg-1.0-py3-none-any.whl#sha256=ab",
    ]


@pytest.mark.parametrize(
    "line",
    [
        "-e .",
        "-e git+https://x/y",
        "--editable=.",
        "-r other.txt",
        "-c limits.txt",
        "-i https://evil/simple",
        "--index-url https://evil/simple",
        "--extra-index-url=https://evil/simple",
        "--find-links /root",
        "--trusted-host evil",
        "--no-index",
        "--pre",
        "six --global-option=x",
        "six --config-settings=x",
        "./local",
        "../local",
        "/root/x.whl",
        "file:///etc/passwd",
        "x @ file:///etc/passwd",
        "x @ ./local",
        "x @ http://plain/x.whl",
        "x @ ssh://host/x",
        "x @ git+ssh://host/x",
        "https://example.org/x.whl",
        "x @ https://evil/${PRATAI_KEY}/x.whl",
        "${HOME}",
        "x == 1 == 2 y",
        "???",
    ],
)
def test_what_reaches_outside_is_refused_with_its_line(line: str) -> None:
    error = refusal(f"six\n{line}\n")
    assert "requirements.txt:2" in error.detail


def test_an_option_hidden_by_a_continuation_is_refused() -> None:
    refusal("six \\\n--index-url https://evil/simple\n")
    refusal("\\\n-e .\n")


@PATIENT
@given(st.text(alphabet=st.sampled_from(list("aA1-_.=<>[]@;# \\\n\"'$:/{}")), max_size=40))
def test_any_text_is_requirements_or_refused(text: str) -> None:
    steps = ["none"]
    found = []
    try:
        found = parse_requirements(text)
    except InvalidField as refused:
        steps = [refused.next_step]
    assert all(steps)
    for line in found:
        assert line[0].isalnum()
        assert "\n" not in line
        assert normalise(line.split(" --hash")[0], "again") == line.split(" --hash")[0]


def test_a_local_name_cannot_be_meant_as_a_path() -> None:
    assert parse_requirements("six.whl\n") == ["six-whl"]


def test_a_header_is_read_as_its_standard_has_it() -> None:
    header = script_header(HEADER, "main.py")
    assert header is not None
    assert header["dependencies"] == ["Requests[socks] >= 2.31", "six"]
    assert script_header("x = 1\n", "main.py") is None
    assert script_header("# /// script\n# dependencies = []\n", "main.py") is None
    assert script_header("  # /// script\n  # a = 1\n  # ///\n", "main.py") is None
    assert script_header("# /// other\n# a = 1\n# ///\n", "main.py") is None


@pytest.mark.parametrize(
    "text",
    [
        "# /// script\n# dependencies = [\n# ///\n",
        "# /// script\n# a = 1\n# ///\n\n# /// script\n# a = 1\n# ///\n",
    ],
)
def test_a_broken_header_is_refused(text: str) -> None:
    with pytest.raises(InvalidField, match=r"main\.py"):
        script_header(text, "main.py")


def test_all_sources_count_together(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(HEADER)
    (tmp_path / "requirements.txt").write_text("six\nzlib-ng\n")
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "x"\nrequires-python = "<4"\ndependencies = ["attrs>=23"]\n'
        "[tool.pratai]\nmemory_mb = 64\nretries = 0\n[tool.other]\na = 1\n"
    )
    wanted = wanted_of(str(tmp_path), ["main.py"])
    assert wanted.requirements == ["attrs>=23", "requests[socks]>=2.31", "six", "zlib-ng"]
    assert wanted.requires_python == "<4,>=3.11"
    assert wanted.settings == {"memory_mb": 128, "retries": 0, "environment": {"A": "1"}}
    assert wanted_of(str(tmp_path), []).settings == {"memory_mb": 64, "retries": 0}


def test_a_package_that_asks_for_nothing_gets_nothing(tmp_path: Path) -> None:
    wanted = wanted_of(str(tmp_path), ["main.py"])
    assert (wanted.requirements, wanted.requires_python, wanted.settings) == ([], "", {})


@pytest.mark.parametrize(
    "text",
    [
        "[project\n",
        "project = 5\n",
        "[project]\ndependencies = 'six'\n",
        "[project]\ndependencies = [5]\n",
        "[project]\nrequires-python = 3.11\n",
        "[project]\ndependencies = ['-e .']\n",
        '[project]\ndependencies = ["six\\n--index-url https://evil"]\n',
        "tool = 1\n",
        "[tool]\npratai = 1\n",
        "a = " + "[" * 5000,
    ],
)
def test_a_broken_project_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(InvalidField, match="pyproject"):
        wanted_of(str(tmp_path), [])


def test_a_file_or_list_beyond_its_bound_is_refused(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("\n".join(f"p{n}" for n in range(1001)))
    with pytest.raises(InvalidField, match="1001"):
        wanted_of(str(tmp_path), [])


@pytest.mark.parametrize(
    ("requires", "runtime", "fits"),
    [
        ("", "python3.11", True),
        (">=3.11", "python3.11", True),
        (">=3.11.4", "python3.11", True),
        (">=3.12", "python3.11", False),
        ("<3.11", "python3.11", False),
        (">=3.9,<3.12", "python3.11", True),
        ("==3.11.*", "python3.11", True),
        ("~=3.10", "python3.11", True),
    ],
)
def test_requires_python_is_held_against_the_runtime(
    requires: str, runtime: str, *, fits: bool
) -> None:
    assert check_python(requires, runtime) is fits


def test_a_layers_digest_depends_on_what_is_in_it_alone() -> None:
    digest = layer_digest(["a", "b==1"], "python3.11", "linux-x86_64")
    assert digest == layer_digest(["b==1", "a", "a"], "python3.11", "linux-x86_64")
    others = {
        layer_digest(["a", "b==2"], "python3.11", "linux-x86_64"),
        layer_digest(["a", "b==1"], "python3.12", "linux-x86_64"),
        layer_digest(["a", "b==1"], "python3.11", "linux-aarch64"),
    }
    assert digest not in others
    assert len(others) == 3
    assert len(digest) == 64


def test_a_name_in_tool_pratai_is_for_the_client_and_no_setting(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(
        '# /// script\n# [tool.pratai]\n# name = "shop"\n# memory_mb = 128\n# ///\n'
    )
    assert wanted_of(str(tmp_path), ["main.py"]).settings == {"memory_mb": 128}
