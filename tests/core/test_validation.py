"""What callers may say of a function, and how a wrong value is refused."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pratai.errors import InvalidField
from pratai.model.api import AliasRequest
from pratai.model.function import FunctionConfig
from pratai.model.validation import (
    _CHECKS,
    RANGES,
    check_handler,
    check_name,
    check_weights,
    parse_body,
    parse_config,
)

#: Facts, not speed: the machine may be busy.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


def refusal(field: str, value: object, **others: object) -> InvalidField:
    with pytest.raises(InvalidField) as caught:
        parse_config({field: value, **others})
    return caught.value


def test_every_field_of_a_configuration_has_a_check() -> None:
    fields = {field.name for field in msgspec.structs.fields(FunctionConfig)}
    assert set(_CHECKS) == fields


def test_the_defaults_pass_their_own_checks() -> None:
    assert parse_config(msgspec.json.encode(FunctionConfig())) == FunctionConfig()


def test_given_fields_override_the_base_and_others_stay() -> None:
    base = FunctionConfig(memory_mb=512, retries=5)
    config = parse_config(b'{"memory_mb": 128}', base)
    assert (config.memory_mb, config.retries) == (128, 5)


@pytest.mark.parametrize("field", sorted(RANGES))
def test_a_number_is_allowed_at_its_bounds_and_refused_beyond(field: str) -> None:
    least, most = RANGES[field]
    for value in (least, most):
        assert getattr(parse_config({field: value}), field) == value
    for value in (least - 1, most + 1):
        error = refusal(field, value)
        assert (error.field, error.value) == (field, value)
        assert f"{least}..{most}" in str(error.allowed)
        assert f"{least}..{most}" in error.next_step


@pytest.mark.parametrize("field", sorted(RANGES))
@pytest.mark.parametrize("value", [True, False, 100.0, "100", [100], {"a": 1}])
def test_only_a_whole_number_is_a_number(field: str, value: object) -> None:
    error = refusal(field, value)
    assert error.field == field
    assert "Expected" not in error.detail


def test_concurrency_may_be_unbounded_but_memory_may_not() -> None:
    assert parse_config({"concurrency_max": None}).concurrency_max is None
    assert refusal("memory_mb", None).field == "memory_mb"
    assert "null" in str(refusal("concurrency_max", 0).allowed)


def test_an_unknown_field_is_refused_with_the_nearest_known_name() -> None:
    error = refusal("memroy_mb", 128)
    assert error.field == "memroy_mb"
    assert "memory_mb" in error.detail
    assert error.next_step == "Rename it to memory_mb."
    assert "timeout_ms" in error.allowed
    camel = refusal("timeoutMs", 5)
    assert "timeout_ms" in camel.next_step


@pytest.mark.parametrize("raw", [b"", b"{", b"[1]", b"7", b"\xff", b'"x"', b"[" * 5000, b"null"])
def test_what_is_no_json_object_is_refused_as_the_config(raw: bytes) -> None:
    with pytest.raises(InvalidField) as caught:
        parse_config(raw)
    assert caught.value.field == "config"
    assert "object" in str(caught.value.allowed)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("main:main", "main:main"),
        ("pkg.sub:run", "pkg.sub:run"),
        ("lambda_function.lambda_handler", "lambda_function:lambda_handler"),
        ("src/app.handler", "src.app:handler"),
        ("", ""),
    ],
)
def test_a_handler_is_kept_as_module_and_function(text: str, normal: str) -> None:
    assert check_handler("handler", text) == normal


@pytest.mark.parametrize(
    "text",
    ["main", "main:", ":main", "a..b:c", "../x:main", "a b:c", "a:b:c", "1a:f", "a:b.c", "x" * 300],
)
def test_what_is_no_handler_is_refused_with_the_shape_to_write(text: str) -> None:
    error = refusal("handler", text)
    assert error.field == "handler"
    assert "module:function" in str(error.allowed)


@pytest.mark.parametrize("name", ["a", "Hello-World_2", "9lives", "x" * 64])
def test_a_name_may_have(name: str) -> None:
    assert check_name("function", name) == name


@pytest.mark.parametrize(
    "name", ["", "-a", "_a", "x" * 65, "a b", "a/b", "..", "ä", "a\n", "$LATEST", 5, None, "\ud800"]
)
def test_a_name_may_not_have(name: object) -> None:
    with pytest.raises(InvalidField) as caught:
        check_name("function", name)
    assert caught.value.field == "function"


def test_an_alias_is_neither_a_number_nor_one_of_ours() -> None:
    assert check_name("alias", "v2") == "v2"
    for name in ("12", "$LATEST"):
        with pytest.raises(InvalidField):
            check_name("alias", name)
    assert check_name("function", "12") == "12"


@pytest.mark.parametrize(
    "key",
    ["PATH", "HOME", "PYTHONPATH", "LD_PRELOAD", "PRATAI_KEY", "AWS_LAMBDA_RUNTIME_API", "TMPDIR"],
)
def test_variables_that_the_platform_sets_are_reserved(key: str) -> None:
    error = refusal("environment", {key: "x"})
    assert (error.field, error.value) == ("environment", key)
    assert refusal("secrets", [key]).field == "secrets"


@pytest.mark.parametrize("key", ["", "1A", "A B", "A=B", "A\0", "é"])
def test_a_variable_has_a_name_that_a_shell_would_take(key: str) -> None:
    assert refusal("environment", {key: "x"}).field == "environment"


def test_a_variables_value_is_text_without_nul() -> None:
    assert refusal("environment", {"A": 5}).field == "environment.A"
    assert refusal("environment", {"A": "x\0y"}).field == "environment.A"
    assert parse_config({"environment": {"A": "ü"}}).environment == {"A": "ü"}


def test_the_environment_is_bounded_in_all() -> None:
    error = refusal("environment", {f"K{n}": "x" * 1024 for n in range(40)})
    assert "32768" in str(error.allowed)


def test_a_name_is_not_both_a_secret_and_a_variable() -> None:
    error = refusal("secrets", ["TOKEN"], environment={"TOKEN": "x"})
    assert (error.field, error.value) == ("secrets", "TOKEN")
    assert "twice" in refusal("secrets", ["A", "A"]).detail


#: Options, orders ("-" removes), shell words, spaces, paths, patterns.
WRONG_APT = [
    "-y",
    "jq-",
    "jq+",
    "jq;id",
    "$(id)",
    "a b",
    "",
    "x",
    "Jq",
    "../x",
    "jq=1",
    "li*",
    "jq\n",
]


@pytest.mark.parametrize(
    ("field", "value", "path"),
    [
        ("description", "x" * 1025, "description"),
        ("description", 5, "description"),
        ("network", "internet", "network"),
        ("network", None, "network"),
        ("public", "yes", "public"),
        ("public", 1, "public"),
        ("on_failure", "sqs:q", "on_failure"),
        ("on_success", "function:a b", "on_success"),
        ("labels", {"": "x"}, "labels"),
        ("labels", {"a": 1}, "labels.a"),
        ("labels", {str(n): "" for n in range(65)}, "labels"),
        ("labels", [], "labels"),
        ("secrets", "TOKEN", "secrets"),
        ("secrets", [5], "secrets[0]"),
        ("runtime", "Python 3", "runtime"),
        ("apt", "jq", "apt"),
        ("apt", [str(n) * 3 for n in range(65)], "apt"),
        ("apt", ["jq", "jq"], "apt[1]"),
        *((("apt", ["jq", name], "apt[1]")) for name in WRONG_APT),
    ],
)
def test_a_wrong_value_is_refused_at_its_path(field: str, value: object, path: str) -> None:
    error = refusal(field, value)
    assert error.field == path
    assert error.allowed
    assert error.next_step


@pytest.mark.parametrize("name", ["jq", "libgomp1", "g++", "libstdc++6", "python3.11-venv"])
def test_names_of_debian_packages_are_accepted(name: str) -> None:
    assert parse_config({"apt": [name]}, runtimes=["python3.11"]).apt == [name]


def test_a_runtime_that_does_not_exist_is_refused_with_the_nearest() -> None:
    with pytest.raises(InvalidField) as caught:
        parse_config({"runtime": "python3.1"}, runtimes=["node22", "python3.11"])
    assert caught.value.allowed == ["node22", "python3.11"]
    assert "python3.11" in caught.value.next_step


def test_a_long_value_is_said_back_cut() -> None:
    error = refusal("description", "x" * 100_000)
    assert len(str(error.value)) < 300
    assert len(error.detail) < 500


@PATIENT
@given(st.dictionaries(st.sampled_from(sorted(_CHECKS)), JSON_VALUES, max_size=4))
def test_any_json_is_a_configuration_or_a_precise_refusal(value: dict[str, object]) -> None:
    error = None
    config = FunctionConfig()
    try:
        config = parse_config(value)
    except InvalidField as refused:
        error = refused
    assert parse_config(msgspec.json.encode(config)) == config
    if error is not None:
        assert error.field is not None
        assert error.field.split(".")[0].split("[")[0] in value
        assert error.next_step
        assert len(error.detail) < 2_000


@PATIENT
@given(st.binary(max_size=200))
def test_any_bytes_are_a_configuration_or_refused(raw: bytes) -> None:
    fields: list[str | None] = ["none"]
    try:
        parse_config(raw)
    except InvalidField as refused:
        fields = [refused.field]
    assert all(fields)


def test_weights_are_shares_of_versions() -> None:
    assert check_weights({"2": 0.25, "3": 0}) == {2: 0.25, 3: 0.0}
    assert check_weights({"1": 0.1, "2": 0.2, "3": 0.7}) == {1: 0.1, 2: 0.2, 3: 0.7}


@pytest.mark.parametrize(
    ("weights", "path"),
    [
        ({"x": 0.5}, "weights.x"),
        ({"0": 0.5}, "weights.0"),
        ({"1": 1.5}, "weights.1"),
        ({"1": -0.1}, "weights.1"),
        ({"1": True}, "weights.1"),
        ({"1": "0.5"}, "weights.1"),
        ({"1": float("nan")}, "weights.1"),
        ({"1": 0.6, "2": 0.6}, "weights"),
        ([], "weights"),
        ({"9" * 30: 0.1}, "weights." + "9" * 30),
    ],
)
def test_wrong_weights_are_refused_at_their_path(weights: object, path: str) -> None:
    with pytest.raises(InvalidField) as caught:
        check_weights(weights)
    assert caught.value.field == path


@pytest.mark.parametrize(
    ("body", "path", "words"),
    [
        ({"version": 5}, "version", "str"),
        ({"version": "1", "weight": {}}, "weight", "weights"),
        ({"weights": {}}, "version", "missing"),
        ({"version": "1", "weights": {"2": "x"}}, "weights", "float"),
    ],
)
def test_a_body_is_refused_as_precisely_as_a_configuration(
    body: object, path: str, words: str
) -> None:
    with pytest.raises(InvalidField) as caught:
        parse_body(json.dumps(body).encode(), AliasRequest)
    error = caught.value
    assert error.field == path
    assert words in f"{error.detail} {error.allowed} {error.next_step}"
    assert "$" not in error.detail


def test_a_right_body_is_its_struct() -> None:
    assert parse_body(b'{"version": "3"}', AliasRequest) == AliasRequest(version="3")
