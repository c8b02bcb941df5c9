"""Objects back into files: in place where they stand, in a file of their own when new, and never over other people."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from smi_adapter.findings import Ref
from smi_adapter.sources import edits
from smi_adapter.sources.edits import ChangedError, EditError
from smi_adapter.sources.files import Tree, read_tree

SPLIT = Ref("TrafficSplit", "shop", "web", "split.smi-spec.io")
ACCOUNT = Ref("ServiceAccount", "shop", "joe")
TWO = """\
# The accounts.
apiVersion: v1
kind: ServiceAccount
metadata: {name: joe, namespace: shop} # Joe
---
# The split.
apiVersion: split.smi-spec.io/v1alpha4
kind: TrafficSplit
metadata: {name: web, namespace: shop}
spec:
  service: web
  backends:
  - {service: v1, weight: 1} # old

# Another one, later:
#---
#kind: TrafficSplit
"""


def split(weight: int) -> dict[str, Any]:
    return {
        "apiVersion": "split.smi-spec.io/v1alpha4",
        "kind": "TrafficSplit",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"service": "web", "backends": [{"service": "v1", "weight": weight}]},
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "all.yaml"
    path.write_text(TWO)
    return path


def tree(path: Path) -> Tree:
    return read_tree(path)


def test_an_object_is_changed_in_its_document_and_nothing_else_is(tmp_path: Path, file: Path) -> None:
    file.chmod(0o640)
    assert edits.put(tmp_path, tree(tmp_path), SPLIT, split(7)) == file
    assert file.read_text() == TWO.replace("weight: 1}", "weight: 7}")
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["all.yaml"]


def test_a_new_object_gets_a_file_named_after_it(tmp_path: Path) -> None:
    path = edits.put(tmp_path, tree(tmp_path), SPLIT, split(7))
    assert path == tmp_path / "shop" / "trafficsplit-web.yaml"
    assert tree(tmp_path).objects == {SPLIT: split(7)}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
    assert (
        edits.put(tmp_path, tree(tmp_path), Ref("Namespace", "", "shop"), namespace) == tmp_path / "namespace-shop.yaml"
    )


def test_a_new_object_never_replaces_a_file_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "trafficsplit-web.yaml").write_text("][")
    path = edits.put(tmp_path, tree(tmp_path), SPLIT, split(7))
    assert path.name == "trafficsplit-web.split.smi-spec.io.yaml"
    assert (tmp_path / "shop" / "trafficsplit-web.yaml").read_text() == "]["


def test_a_new_object_is_appended_where_the_source_is_one_file(file: Path) -> None:
    other = {**split(7), "metadata": {"name": "other", "namespace": "shop"}}
    assert edits.put(file, tree(file), Ref("TrafficSplit", "shop", "other", "split.smi-spec.io"), other) == file
    assert file.read_text().startswith(TWO)
    assert len(tree(file).objects) == 3


def test_a_source_that_is_one_file_stays_when_its_last_object_goes(file: Path) -> None:
    for ref in (SPLIT, ACCOUNT):
        edits.remove(file, tree(file), ref)
    assert (file.exists(), tree(file).objects, tree(file).findings()) == (True, {}, ())
    edits.put(file, tree(file), SPLIT, split(7))
    assert set(tree(file).objects) == {SPLIT}


def test_a_removed_document_takes_its_own_lines_alone(tmp_path: Path, file: Path) -> None:
    edits.remove(tmp_path, tree(tmp_path), SPLIT)
    text = file.read_text()
    assert text == TWO[: TWO.index("---\n")] + TWO[TWO.index("\n# Another one") :]
    assert set(tree(tmp_path).objects) == {ACCOUNT}


def test_the_first_document_can_go(tmp_path: Path, file: Path) -> None:
    edits.remove(tmp_path, tree(tmp_path), ACCOUNT)
    assert file.read_text() == TWO[TWO.index("---\n") :]


def test_a_file_goes_with_its_last_object_and_a_folder_of_ours_with_its_last_file(tmp_path: Path) -> None:
    edits.put(tmp_path, tree(tmp_path), SPLIT, split(7))
    edits.remove(tmp_path, tree(tmp_path), SPLIT)
    assert list(tmp_path.iterdir()) == []


def test_the_watched_folder_stays_when_the_last_namespace_goes(tmp_path: Path) -> None:
    shop = Ref("Namespace", "", "shop")
    edits.put(tmp_path, tree(tmp_path), shop, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})
    edits.remove(tmp_path, tree(tmp_path), shop)
    assert list(tmp_path.iterdir()) == []


def test_an_object_whose_file_somebody_has_just_deleted_is_removed(tmp_path: Path) -> None:
    path = edits.put(tmp_path, tree(tmp_path), SPLIT, split(1))
    known = tree(tmp_path)
    path.unlink()
    assert edits.remove(tmp_path, known, SPLIT) == (path,)


def test_every_definition_of_a_removed_object_goes(tmp_path: Path, file: Path) -> None:
    (tmp_path / "again.yaml").write_text(TWO)
    edits.remove(tmp_path, tree(tmp_path), SPLIT)
    assert set(tree(tmp_path).objects) == {ACCOUNT}


def test_an_item_of_a_list_is_changed_and_removed_in_it(tmp_path: Path) -> None:
    file = tmp_path / "list.yaml"
    text = """\
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: ServiceAccount, metadata: {name: joe, namespace: shop}} # Joe
- apiVersion: split.smi-spec.io/v1alpha4
  kind: TrafficSplit
  metadata: {name: web, namespace: shop}
  spec:
    service: web
    backends:
    - {service: v1, weight: 1} # old
"""
    file.write_text(text)
    edits.put(tmp_path, tree(tmp_path), SPLIT, split(7))
    assert file.read_text() == text.replace("weight: 1}", "weight: 7}")
    edits.remove(tmp_path, tree(tmp_path), SPLIT)
    assert "# Joe" in file.read_text()
    edits.remove(tmp_path, tree(tmp_path), ACCOUNT)
    assert not file.exists()


def test_what_somebody_else_has_just_written_is_not_overwritten(tmp_path: Path, file: Path) -> None:
    seen = tree(tmp_path)
    file.write_text(TWO.replace("weight: 1}", "weight: 5}"))
    with pytest.raises(ChangedError):
        edits.put(tmp_path, seen, SPLIT, split(7))
    assert "weight: 5}" in file.read_text()


def test_an_edit_of_another_document_in_between_stays(tmp_path: Path, file: Path) -> None:
    seen = tree(tmp_path)
    file.write_text(TWO.replace("# Joe", "# Joseph"))
    edits.put(tmp_path, seen, SPLIT, split(7))
    assert file.read_text() == TWO.replace("# Joe", "# Joseph").replace("weight: 1}", "weight: 7}")


def test_line_ends_and_encodings_stay(tmp_path: Path, file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + TWO.replace("\n", "\r\n").encode())
    edits.put(tmp_path, tree(tmp_path), SPLIT, split(7))
    assert file.read_bytes() == b"\xef\xbb\xbf" + TWO.replace("weight: 1}", "weight: 7}").replace("\n", "\r\n").encode()
    file.write_bytes(TWO.encode("utf-16"))
    edits.put(tmp_path, tree(tmp_path), SPLIT, split(8))
    assert file.read_bytes().decode("utf-16") == TWO.replace("weight: 1}", "weight: 8}")


def test_a_link_stays_a_link(tmp_path: Path, file: Path) -> None:
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "link.yaml").symlink_to(file)
    edits.put(folder, tree(folder), SPLIT, split(7))
    assert (folder / "link.yaml").is_symlink()
    assert "weight: 7}" in file.read_text()


def test_a_name_that_would_leave_the_folder_is_refused(tmp_path: Path) -> None:
    ref = Ref("ServiceAccount", "shop", "../../x")
    with pytest.raises(EditError):
        edits.put(
            tmp_path, tree(tmp_path), ref, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "x"}}
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", [None, TWO, json.dumps(split(1))], ids=["new", "yaml", "json"])
@pytest.mark.parametrize("alone", [True, False])
def test_half_a_surrogate_pair_is_refused_and_no_file_changes(tmp_path: Path, text: str | None, alone: bool) -> None:
    path = tmp_path / "all.yaml"
    path.write_text("" if text is None else text)
    root = path if alone else tmp_path
    raw = split(1)
    raw["metadata"]["annotations"] = {"note": "a\ud800"}
    with pytest.raises(EditError, match=r"'\\ud800' is no character"):
        edits.put(root, tree(root), SPLIT, raw)
    assert [one.name for one in tmp_path.rglob("*")] == ["all.yaml"]
    assert path.read_text() == (text or "")


def test_a_broken_document_beside_it_stays_as_it_is(tmp_path: Path, file: Path) -> None:
    file.write_text(TWO + "---\n][\n")
    edits.put(tmp_path, tree(tmp_path), SPLIT, split(7))
    assert file.read_text().endswith("---\n][\n")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_file_that_cannot_be_written_is_one_clear_error(tmp_path: Path, file: Path) -> None:
    seen = tree(tmp_path)
    tmp_path.chmod(0o500)
    with pytest.raises(EditError, match="can't be written"):
        edits.put(tmp_path, seen, SPLIT, split(7))
