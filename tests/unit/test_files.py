"""Files and their faults: each bad one is one finding, what it held before stays, and its neighbours are read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from smi_adapter.findings import Ref
from smi_adapter.sources import Location
from smi_adapter.sources.files import HAVE_LEASES, MAX_BYTES, FileState, NotSettledError, Tree, listing, read, read_tree

SERVICE = (
    "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{ports: [{{port: {port}}}]}}\n"
)


def service(name: str, port: int = 80) -> str:
    return SERVICE.format(name=name, port=port)


def ref(name: str) -> Ref:
    return Ref("Service", "shop", name)


def codes(tree: Tree) -> list[str]:
    return [item.code for item in tree.findings()]


def test_a_folder_is_read_in_as_long_as_one_of_its_own_files_is_held(tmp_path: Path) -> None:
    tree, folder = Tree(), tmp_path / "a"
    one, other = folder / "1.yaml", folder / "2.yaml"
    for path in (one, other, one):
        tree.put(path, FileState(path, path.name))
    assert tree.reads_in(folder)
    assert not tree.reads_in(tmp_path)
    tree.put(one, None)
    assert tree.reads_in(folder)
    for path in (other, one):
        tree.put(path, None)
        assert not tree.reads_in(folder)


def test_every_document_of_every_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "b.yml").write_text(f"{service('one')}---\n---\n# nothing\n---\n{service('two')}")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "c.yaml").write_text(
        "kind: List\nitems:\n- {kind: Service,\n   apiVersion: v1,\n   metadata: {name: three, namespace: shop}}\n"
    )
    (tmp_path / "d.json").write_text('{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "four"}}')
    tree = read_tree(tmp_path)
    assert set(tree.objects) == {ref("one"), ref("two"), ref("three"), Ref("Service", "default", "four")}
    assert tree.findings() == ()
    assert tree.location(ref("two")) == Location("b.yml", 9)
    assert tree.location(ref("two"), "spec.ports[0].port") == Location("b.yml", 12)
    assert tree.location(ref("three"), "metadata.name") == Location("deep/er/c.yaml", 5)
    assert tree.location(ref("nobody")) is None


def test_a_typed_list_lends_its_items_their_kind(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "apiVersion: v1\nkind: ServiceList\nitems: [{metadata: {name: one, namespace: shop}}]"
    )
    assert read_tree(tmp_path).objects[ref("one")]["kind"] == "Service"


@pytest.mark.parametrize(
    "name",
    [".hidden.yaml", ".git/a.yaml", "a.yaml~", "#a.yaml#", ".#a.yaml", "a.yaml.swp", "4913", "a.txt", "..data/a.yaml"],
)
def test_hidden_files_and_what_editors_leave_behind_are_not_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(service("one"))
    assert read_tree(tmp_path).objects == {}


def test_a_file_that_is_named_is_read_whatever_its_suffix(tmp_path: Path) -> None:
    path = tmp_path / "manifests"
    path.write_text(service("one"))
    assert set(read_tree(path).objects) == {ref("one")}


def faults() -> Iterator[tuple[str, bytes, str]]:
    yield "half-written", service("one").encode()[:-5], "SMI0507"
    yield "tabs", b"kind: Service\nmetadata:\n\tname: one\n", "SMI0507"
    yield "NUL", service("one").encode() + b"\0", "SMI0507"
    yield "not UTF-8", service("one").encode() + b"# \xff", "SMI0507"
    yield "huge", service("one").encode() + b"#" * MAX_BYTES, "SMI0206"
    yield "deep", b"a: " + b"[" * 900, "SMI0507"
    yield "bomb", b"a: &a [" + b"1," * 99 + b"]\nb: &b [" + b"*a," * 99 + b"]\nc: [" + b"*b," * 99 + b"]", "SMI0507"
    yield "10,000 digits", b"kind: Service\nspec: " + b"9" * 10_000, "SMI0507"
    yield "duplicate keys", b"kind: Service\nkind: Service\n", "SMI0507"
    yield "no object", b"- just\n- a list\n", "SMI0507"
    yield "no name", b"apiVersion: v1\nkind: Service\n", "SMI0507"
    yield "no kind", b"metadata: {name: one}\n", "SMI0507"


@pytest.mark.parametrize(("data", "code"), [item[1:] for item in faults()], ids=[item[0] for item in faults()])
def test_f19_a_file_that_turns_bad_changes_nothing_and_is_one_finding(tmp_path: Path, data: bytes, code: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(service("one"))
    (tmp_path / "b.yaml").write_text(service("two"))
    tree = read_tree(tmp_path)
    before = dict(tree.objects)
    path.write_bytes(data)
    assert tree.put(path, read(path, tmp_path, tree.states[path])) == set()
    assert tree.objects == before
    (item,) = tree.findings()
    assert (item.code, item.subject) == (code, Ref("File", "", "a.yaml"))
    assert item.message.startswith("a.yaml:")
    path.write_text(service("one", 81))
    assert tree.put(path, read(path, tmp_path, tree.states[path])) == {ref("one")}
    assert tree.findings() == ()


@pytest.mark.parametrize(("data", "code"), [item[1:] for item in faults()], ids=[item[0] for item in faults()])
def test_f19_a_file_that_is_bad_from_the_start_hurts_only_itself(tmp_path: Path, data: bytes, code: str) -> None:
    (tmp_path / "a.yaml").write_bytes(data)
    (tmp_path / "b.yaml").write_text(service("two"))
    tree = read_tree(tmp_path)
    assert set(tree.objects) == {ref("two")}
    assert codes(tree) == [code]


def test_a_broken_document_hurts_only_itself_and_keeps_what_it_held(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("---\n".join(service(name) for name in ("one", "two", "three")))
    tree = read_tree(tmp_path)
    path.write_text(f"{service('one', 81)}---\nkind: [\n---\n{service('three', 83)}")
    assert tree.put(path, read(path, tmp_path, tree.states[path])) == {ref("one"), ref("three")}
    assert set(tree.objects) == {ref("one"), ref("two"), ref("three")}
    (item,) = tree.findings()
    assert item.message.startswith("a.yaml:6: ")
    path.write_text(service("one", 81))
    assert tree.put(path, read(path, tmp_path, tree.states[path])) == {ref("two"), ref("three")}
    assert set(tree.objects) == {ref("one")}


def test_an_unchanged_document_keeps_its_object_when_others_move(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"{service('one')}---\n{service('two')}")
    tree = read_tree(tmp_path)
    two = tree.objects[ref("two")]
    path.write_text(f"# a\n# longer\n{service('one', 81)}---\n{service('two')}")
    assert tree.put(path, read(path, tmp_path, tree.states[path])) == {ref("one")}
    assert tree.objects[ref("two")] is two
    assert tree.location(ref("two")) == Location("a.yaml", 8)


def test_of_two_definitions_the_first_by_file_name_and_position_counts(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(f"{service('one', 82)}---\n{service('one', 83)}")
    (tmp_path / "a.yaml").write_text(service("one", 81))
    tree = read_tree(tmp_path)
    assert tree.objects[ref("one")]["spec"]["ports"][0]["port"] == 81
    assert [(item.code, item.subject) for item in tree.findings()] == [("SMI0508", ref("one"))] * 2
    assert "b.yaml:6" in tree.findings()[1].message
    assert tree.put(tmp_path / "a.yaml", None) == {ref("one")}
    assert tree.objects[ref("one")]["spec"]["ports"][0]["port"] == 82
    assert codes(tree) == ["SMI0508"]


def test_a_pipe_that_bears_a_files_name_blocks_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text(service("two"))
    tree = read_tree(tmp_path)
    assert set(tree.objects) == {ref("two")}
    assert codes(tree) == ["SMI0507"]


def test_a_dangling_link_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").symlink_to(tmp_path / "nowhere")
    tree = read_tree(tmp_path)
    assert codes(tree) == ["SMI0507"]


def test_a_control_character_in_a_file_name_never_reaches_a_message(tmp_path: Path) -> None:
    (tmp_path / "a\n\x1b[2J.yaml").write_text("[")
    (item,) = read_tree(tmp_path).findings()
    assert item.message.isprintable()


@pytest.mark.skipif(not HAVE_LEASES, reason="only Linux can tell whether a file is being written")
def test_a_file_that_is_being_written_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    with path.open("w") as file:
        file.write(service("one"))
        file.flush()
        with pytest.raises(NotSettledError):
            read(path, tmp_path, settled=True)
    assert [found.ref for found in read(path, tmp_path, settled=True).found()] == [ref("one")]


def test_files_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.yaml", "a.yaml", "c/a.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.relative_to(tmp_path).as_posix() for path in listing(tmp_path).paths] == [
        "a.yaml",
        "b.yaml",
        "c/a.yaml",
    ]


def test_a_folder_that_cannot_be_read_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.yaml").write_text(service("one"))
    (tmp_path / "b.yaml").write_text(service("two"))
    real = os.scandir

    def scandir(path: str) -> Iterator[os.DirEntry[str]]:
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)  # root may read everything, so that chmod would do nothing
    tree = read_tree(tmp_path)
    assert set(tree.objects) == {ref("two")}
    (said,) = tree.findings()
    assert (said.code, said.subject) == ("SMI0507", Ref("File", "", "deep"))
    assert "Permission denied" in said.message
    found = listing(tmp_path)
    assert found.hides(tmp_path / "deep" / "er" / "a.yaml")
    assert not found.hides(tmp_path / "b.yaml")
