"""YAML from anybody: what is refused, what is read as Kubernetes tools read it, and where an error is said to be."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smi_adapter.sources.yaml_text import MAX_ALIASED, MAX_DEPTH, YamlError, decode_bytes, line_of, parse, split

LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def only(text: str) -> Any:
    (parsed,) = parse(text)
    return parsed.value


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("[" * 100_000, 1, "nesting"),
        ("- " * 100_000, 1, "nesting"),
        ('{"a":' * 100_000, 1, "nesting"),
        ("a: " + "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), 1, "nested more than"),
        (LAUGHS, 4, "aliases"),
        ("a: &a " + "x" * 1000 + "\nb: [" + "*a," * 50_000 + "]", 1, "aliases"),
        ("x: &x {a: 1}\ny: [" + "{<<: *x}," * (MAX_ALIASED + 1) + "]", 1, "aliases"),
        ("a: &a [*a]", 1, "own anchor"),
        ("a: 1\nb: 2\na: 3", 3, "twice"),
        ('{"a": 1,\n"a": 2}', 2, "twice"),
        ("a: 1\nb: !!python/object/apply:os.system [id]", 2, "tag"),
        ("a: !!binary aGVsbG8=", 1, "tag"),
        ("a: !!set {b, c}", 1, "tag"),
        ("a: !mine b", 1, "tag"),
        ("a:\n  b: " + "1" * 10_000, 2, "digits"),
        ('{"a": ' + "1" * 10_000 + "}", 1, "digits"),
        ("? [a]\n: b", 1, "key"),
        ("a:\n\tb: 1", 2, "token"),
        ("kind: Service\nmetadata: {name: x", 2, "expected"),
        ("<<: 1", 1, "merges"),
    ],
)
def test_f19_a_dangerous_or_broken_text_is_one_error_with_its_line(text: str, line: int, words: str) -> None:
    with pytest.raises(YamlError) as caught:
        parse(text)
    assert words in caught.value.reason
    assert caught.value.line == line


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2020-01-01T00:00:00Z", "2020-01-01T00:00:00Z"),
        ("2020-01-01", "2020-01-01"),
        ("12:30:45", "12:30:45"),
        ("1:30.5", "1:30.5"),
        ("yes", True),
        ("off", False),
        ("0644", 0o644),
        ("-0x1F", -31),
        ("1_000", 1000),
        ("~", None),
        ("-2.5", -2.5),
        ("'10'", "10"),
        ("!!str 10", "10"),
        ("=", "="),
    ],
)
def test_a_plain_value_reads_as_for_kubernetes(text: str, value: object) -> None:
    found = only(f"a: {text}")["a"]
    assert found == value
    assert type(found) is type(value)


def test_a_key_is_always_a_text() -> None:
    assert only("1: a\ntrue: b\n2020-01-01: c") == {"1": "a", "true": "b", "2020-01-01": "c"}


def test_merge_keys_fill_in_and_never_override() -> None:
    text = "x: &x {a: 1, b: 2}\ny: &y {b: 3, c: 4}\nz: {<<: [*x, *y], b: 9}"
    assert only(text)["z"] == {"a": 1, "b": 9, "c": 4}


def test_json_escapes_that_yaml_lacks_are_read() -> None:
    assert only('{"a": "\\ud83d\\ude00", "b": [1, 2.5, null]}') == {"a": "😀", "b": [1, 2.5, None]}


@pytest.mark.parametrize("data", ["a: é".encode(), b"\xef\xbb\xbfa: \xc3\xa9", "a: é".encode("utf-16")])
def test_a_byte_order_mark_is_understood(data: bytes) -> None:
    assert decode_bytes(data) == "a: é"


@pytest.mark.parametrize(
    ("data", "line"),
    [(b"a: 1\nb: \xff\n", 2), (b"a: 1\n\nb: \x00", 3), (b"\x1b[2J", 1), (b"\xff\xfea", 1)],
)
def test_bytes_that_are_no_text_are_an_error_with_its_line(data: bytes, line: int) -> None:
    with pytest.raises(YamlError) as caught:
        decode_bytes(data)
    assert caught.value.line == line


def test_documents_are_cut_at_their_markers_only() -> None:
    text = "# first\n---\na: |\n  ---\n  x: ----\n--- {b: 2}\n---\n"
    assert [(line, part.strip()) for line, part in split(text)] == [
        (1, "# first"),
        (2, "---\na: |\n  ---\n  x: ----"),
        (6, "--- {b: 2}"),
        (7, "---"),
    ]


def test_a_directive_belongs_to_the_document_that_follows() -> None:
    parts = split("# about\n%YAML 1.1\n---\na: 1\n---\nb: 2\n")
    assert [line for line, _ in parts] == [1, 5]
    assert only(parts[0][1]) == {"a": 1}


def test_a_field_is_found_by_its_path_or_by_its_nearest_parent() -> None:
    text = "kind: List\nitems:\n- spec:\n    backends:\n    - service: a\n    - service: b\n      weight: -1\n"
    assert line_of(text, "spec.backends[1].weight", 0) == 7
    assert line_of(text, "spec.backends[1].port", 0) == 6
    assert line_of(text, "spec.matches[3].name", 0) == 4
    assert line_of("a: [", "a") == 1


@given(st.text(max_size=200))
def test_any_text_is_a_value_or_a_named_error(text: str) -> None:
    with contextlib.suppress(YamlError):
        for _, part in split(decode_bytes(text.encode("utf-8", "surrogatepass"))):
            parse(part)


@given(st.lists(st.sampled_from(["---\n", "%YAML 1.1\n", "# c\n", "a: 1\n", "\n", "  - b\n", "...\n", "--- x\n"])))
def test_cutting_loses_nothing(pieces: list[str]) -> None:
    text = "".join(pieces)
    parts = split(text)
    assert "".join(part for _, part in parts) == text
    assert all(text.splitlines()[line - 1 :][:1] == part.splitlines()[:1] for line, part in parts if part)


@pytest.mark.parametrize("text", ['{"a":\n "\\ud800"}', '{"a": {\n"\\udc00": 1}}', '{"a":\n["\\ud83d x"]}'])
def test_half_of_a_surrogate_pair_is_refused_in_json(text: str) -> None:
    with pytest.raises(YamlError) as caught:
        parse(text)
    assert caught.value.line == 2
    assert only(r'{"a": "\ud83d\ude00"}') == {"a": "\U0001f600"}
