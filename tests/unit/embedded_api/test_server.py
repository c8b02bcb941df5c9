"""The embedded API as a client sees it: who gets in, what is refused and in which words, what a watch tells."""

from __future__ import annotations

import asyncio
import io
import json
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from smi_adapter.embedded_api import server as server_module
from smi_adapter.embedded_api.access import AddressError, loopback
from smi_adapter.findings import Ref
from tests.unit.embedded_api.world import SPLITS, Client, next_event, served, split

SPLIT = Ref("TrafficSplit", "shop", "web", "split.smi-spec.io")
STORED = f"{SPLITS}/web"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with served(tmp_path) as found:
        yield found


# ---------------------------------------------------------------------------------------------------- who gets in


@pytest.mark.parametrize("token", ["", "Bearer ", "Bearer guessed", "Basic eDp5"])
async def test_nobody_gets_in_without_the_token(client: Client, token: str) -> None:
    for path in ("/version", "/api", SPLITS, "/openapi/v3", "/nowhere"):
        answer = await client.ask("GET", path, headers={"Authorization": token})
        assert (answer.status, answer.body["reason"]) == (401, "Unauthorized")
    assert (await client.ask("POST", SPLITS, split(), headers={"Authorization": token})).status == 401
    assert client.shelf.written(SPLIT) is None


async def test_another_host_name_is_refused_even_with_the_token(client: Client) -> None:
    assert (await client.ask("GET", "/version", headers={"Host": "evil.example:443"})).status == 403
    assert (await client.ask("GET", "/version", headers={"Host": client.url.removeprefix("https://")})).status == 200


async def test_the_kubeconfig_is_private_and_goes_with_the_server(tmp_path: Path) -> None:
    async with served(tmp_path):
        assert stat.S_IMODE((tmp_path / "kubeconfig").stat().st_mode) == 0o600
    assert not (tmp_path / "kubeconfig").exists()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("127.0.0.1", ("127.0.0.1", 0)), ("localhost:6443", ("127.0.0.1", 6443)), ("[::1]:1", ("::1", 1)),
     ("::1", ("::1", 0)), ("127.7.7.7:9", ("127.7.7.7", 9)), (":8", ("127.0.0.1", 8))],
)  # fmt: skip
def test_loopback_addresses_are_taken(text: str, wanted: tuple[str, int]) -> None:
    assert loopback(text) == wanted


@pytest.mark.parametrize(
    "text", ["0.0.0.0", "::", "10.0.0.1:80", "example.com", "127.0.0.1:x", "127.0.0.1:70000", "[::]:1"]
)
def test_every_other_address_is_refused(text: str) -> None:
    with pytest.raises(AddressError):
        loopback(text)


# -------------------------------------------------------------------------------------------------------- writing


async def test_what_is_created_is_in_the_file_without_what_the_server_adds(client: Client) -> None:
    sent = split(uid="forged", managedFields=[], annotations={"kubectl.kubernetes.io/last-applied-configuration": "{}"})
    del sent["metadata"]["uid"]
    answer = await client.create({**sent, "status": {"conditions": []}})
    assert answer.status == 201
    metadata = answer.body["metadata"]
    assert client.shelf.written(SPLIT) == split(creationTimestamp=metadata["creationTimestamp"])
    assert metadata["uid"]
    assert metadata["generation"] == 1
    assert metadata["annotations"] == {"kubectl.kubernetes.io/last-applied-configuration": "{}"}
    assert "status" not in answer.body


async def test_the_age_of_a_split_is_in_its_file_as_the_oldest_wins_and_is_not_the_clients_to_say(
    client: Client,
) -> None:
    answer = await client.create(split(creationTimestamp="2001-01-01T00:00:00Z"))
    created = answer.body["metadata"]["creationTimestamp"]
    assert not created.startswith("2001")
    await client.merge(STORED, {"metadata": {"creationTimestamp": None}, "spec": {"service": "other"}})
    written = client.shelf.written(SPLIT)
    assert written is not None
    assert (written["metadata"]["creationTimestamp"], written["spec"]["service"]) == (created, "other")


async def test_a_split_of_a_file_without_an_age_gets_none_by_a_change_of_something_else(client: Client) -> None:
    client.shelf.edit(split())
    await client.merge(STORED, {"spec": {"service": "other"}})
    written = client.shelf.written(SPLIT)
    assert written is not None
    assert "creationTimestamp" not in written["metadata"]


async def test_a_write_through_another_version_keeps_the_version_of_the_file(client: Client) -> None:
    client.shelf.edit(split(version="v1alpha2"))
    assert (await client.merge(STORED, {"spec": {"service": "other"}})).body["apiVersion"].endswith("v1alpha4")
    written = client.shelf.written(SPLIT)
    assert written is not None
    assert written["apiVersion"] == "split.smi-spec.io/v1alpha2"
    assert written["spec"]["service"] == "other"


async def test_a_file_takes_the_version_of_the_client_where_its_own_cannot_say_it(client: Client) -> None:
    client.shelf.edit(split(version="v1alpha2"))
    matches = [{"kind": "HTTPRouteGroup", "name": "x"}]
    assert (await client.merge(STORED, {"spec": {"matches": matches}})).status == 200
    written = client.shelf.written(SPLIT)
    assert written is not None
    assert written["apiVersion"] == "split.smi-spec.io/v1alpha4"
    assert written["spec"]["matches"] == matches
    assert "annotations" not in written["metadata"]


async def test_every_version_of_an_object_is_read_and_writing_it_back_loses_nothing(client: Client) -> None:
    group = {
        "apiVersion": "specs.smi-spec.io/v1alpha4",
        "kind": "HTTPRouteGroup",
        "metadata": {"name": "g", "namespace": "shop"},
        "spec": {"matches": [{"name": "a", "headers": {"x": "y"}}, {"name": "b", "pathRegex": "/b"}]},
    }
    client.shelf.edit(group)
    for version in ("v1alpha1", "v1alpha2", "v1alpha3", "v1alpha4"):
        path = f"/apis/specs.smi-spec.io/{version}/namespaces/shop/httproutegroups/g"
        seen = await client.get(path)
        assert ("spec" in seen) == (version in {"v1alpha3", "v1alpha4"})
        seen["metadata"]["labels"] = {"seen": version}
        assert (await client.ask("PUT", path, seen)).status == 200
        written = client.shelf.written(Ref("HTTPRouteGroup", "shop", "g", "specs.smi-spec.io"))
        assert written == {**group, "metadata": {**group["metadata"], "labels": {"seen": version}}}  # type: ignore[dict-item]


@pytest.mark.parametrize("half", ["a\ud800", "\ude00\ud83d"])
async def test_half_a_surrogate_pair_is_a_bad_request(client: Client, half: str) -> None:
    for raw in (split(annotations={"note": half}), split(half), split(annotations={half: "x"})):
        assert (await client.create(raw)).status == 400
    assert (await client.apply(split(annotations={"note": half}))).status == 400
    assert client.shelf.written(SPLIT) is None


async def test_a_character_beyond_16_bits_may_be_written_as_a_pair(client: Client) -> None:
    assert b"\\ud83d\\ude00" in json.dumps(raw := split(annotations={"note": "\U0001f600"})).encode()
    assert (await client.create(raw)).body["metadata"]["annotations"] == {"note": "\U0001f600"}


async def test_an_invalid_object_is_refused_field_by_field_and_nothing_is_written(client: Client) -> None:
    answer = await client.create({**split(weight=-1), "spec": {"backends": [{"service": "v1", "weight": "x"}]}})
    assert (answer.status, answer.body["reason"]) == (422, "Invalid")
    assert answer.causes == {"spec.service": "FieldValueRequired", "spec.backends[0].weight": "FieldValueInvalid"}
    assert client.shelf.written(SPLIT) is None


async def test_what_was_wrong_before_does_not_hinder_another_change(client: Client) -> None:
    client.shelf.edit(split(weight=-1))
    assert (await client.merge(STORED, {"metadata": {"labels": {"a": "b"}}})).status == 200
    assert (await client.merge(STORED, {"spec": {"backends": [{"service": "v1", "weight": -2}]}})).status == 422


async def test_what_an_author_wrote_into_a_file_is_not_pruned_by_others(client: Client) -> None:
    raw: Any = split()
    raw["spec"]["typo"] = 1
    client.shelf.edit(raw)
    patch = {"metadata": {"labels": {"a": "b"}}}
    query = "?fieldValidation=Strict"
    assert (await client.merge(STORED + query, patch)).status == 200
    written = client.shelf.written(SPLIT)
    assert written is not None
    assert written["spec"]["typo"] == 1
    assert (await client.merge(STORED + query, {"spec": {"other": 1}})).status == 400


@pytest.mark.parametrize(
    ("validation", "status", "warnings"), [("Strict", 400, 0), ("Warn", 201, 1), ("Ignore", 201, 0)]
)
async def test_unknown_fields_are_refused_or_pruned(
    client: Client, validation: str, status: int, warnings: int
) -> None:
    raw = split()
    raw["spec"]["backends"][0]["wieght"] = 3
    raw["spec"]["extra"] = {"a": 1}
    answer = await client.create(raw, f"{SPLITS}?fieldValidation={validation}")
    assert (answer.status, bool(answer.warnings)) == (status, bool(warnings))
    written = client.shelf.written(SPLIT)
    assert (written and written["spec"]) == (None if status == 400 else split()["spec"])


async def test_an_old_copy_is_refused(client: Client) -> None:
    client.shelf.edit(split())
    seen = await client.get(STORED)
    client.shelf.edit(split(weight=5))
    answer = await client.ask("PUT", STORED, seen)
    assert (answer.status, answer.body["reason"]) == (409, "Conflict")
    seen = await client.get(STORED)
    seen["metadata"]["uid"] = "another"
    assert (await client.ask("PUT", STORED, seen)).status == 409


async def test_a_dry_run_changes_nothing(client: Client) -> None:
    assert (await client.create(split(), f"{SPLITS}?dryRun=All")).status == 201
    client.shelf.edit(split(name="other"))
    revision = client.store.revision
    assert (await client.apply(split("other", 7), query="&dryRun=All&force=true")).body["spec"]["backends"][0][
        "weight"
    ] == 7
    assert (await client.ask("DELETE", f"{SPLITS}/other?dryRun=All")).status == 200
    assert client.store.revision == revision
    assert list(client.shelf.objects) == [
        Ref("Namespace", "", "shop"),
        Ref("TrafficSplit", "shop", "other", SPLIT.group),
    ]


async def test_what_an_edit_of_the_file_changed_is_owned_by_the_files(client: Client) -> None:
    await client.apply(split(weight=1))
    client.shelf.edit(split(weight=2))
    answer = await client.apply(split(weight=3))
    assert (answer.status, answer.causes) == (409, {".spec.backends": "FieldManagerConflict"})
    assert '"files"' in answer.body["message"]
    assert (await client.apply(split(weight=3), query="&force=true")).status == 200


async def test_an_apply_of_yaml_and_an_apply_that_says_nothing_new(client: Client) -> None:
    text = b"""\
apiVersion: split.smi-spec.io/v1alpha4
kind: TrafficSplit
metadata: {name: web}
spec: {service: web, backends: []}
"""
    answer = await client.ask("PATCH", f"{STORED}?fieldManager=me", text, "application/apply-patch+yaml")
    assert answer.status == 422
    await client.apply(split())
    revision = client.store.revision
    assert (await client.apply(split())).status == 200
    assert client.store.revision == revision


async def test_objects_in_no_file_cannot_be_written_and_say_where_they_come_from(client: Client) -> None:
    owner = [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}]
    metadata = {"name": "web-0", "namespace": "shop", "ownerReferences": owner}
    client.store.take({Ref("Pod", "shop", "web-0"): {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}})
    pod = "/api/v1/namespaces/shop/pods/web-0"
    for answer in (await client.ask("DELETE", pod), await client.merge(pod, {"metadata": {"labels": {"a": "b"}}})):
        assert (answer.status, "Deployment web" in answer.body["message"]) == (403, True)


async def test_a_shelf_that_fails_is_said_in_its_words(client: Client) -> None:
    client.shelf.broken = "the disk is full"
    answer = await client.create(split())
    assert (answer.status, answer.body["message"]) == (500, "the disk is full")


async def test_two_writers_never_overwrite_each_other(client: Client) -> None:
    client.shelf.edit(split(labels={}))
    names = [f"l{number}" for number in range(20)]
    answers = await asyncio.gather(*(client.merge(STORED, {"metadata": {"labels": {name: "x"}}}) for name in names))
    assert {answer.status for answer in answers} == {200}
    assert sorted((await client.get(STORED))["metadata"]["labels"]) == sorted(names)


# ----------------------------------------------------------------------------------------------------- namespaces


async def test_namespaces_that_are_used_need_no_declaration(client: Client) -> None:
    other = {**split(), "metadata": {"name": "web", "namespace": "other"}}
    client.shelf.edit(other)
    found = await client.get("/api/v1/namespaces")
    assert [item["metadata"]["name"] for item in found["items"]] == ["default", "other", "shop"]
    client.store.take({Ref("TrafficSplit", "other", "web", SPLIT.group): None})
    found = await client.get("/api/v1/namespaces")
    assert [item["metadata"]["name"] for item in found["items"]] == ["default", "shop"]


async def test_a_namespace_that_is_not_there_takes_nothing(client: Client) -> None:
    raw = {**split(), "metadata": {"name": "web", "namespace": "nowhere"}}
    answer = await client.create(raw, SPLITS.replace("shop", "nowhere"))
    assert (answer.status, answer.body["details"]["kind"]) == (404, "namespaces")


async def test_a_deleted_namespace_takes_all_that_is_in_it(client: Client) -> None:
    client.shelf.edit(split(), split("other"))
    assert (await client.ask("DELETE", "/api/v1/namespaces/shop")).status == 200
    assert client.shelf.objects == {}
    assert (await client.ask("GET", STORED)).status == 404
    assert (await client.ask("DELETE", "/api/v1/namespaces/default")).status == 403


# -------------------------------------------------------------------------------------------------------- watching


async def test_a_watch_goes_on_from_a_list(client: Client) -> None:
    client.shelf.edit(split())
    revision = (await client.get(SPLITS))["metadata"]["resourceVersion"]
    client.shelf.edit(split(weight=2))
    async with client.watch(f"&resourceVersion={revision}") as stream:
        kind, item = await next_event(stream)
        assert (kind, item["spec"]["backends"][0]["weight"]) == ("MODIFIED", 2)
        client.store.take({SPLIT: None})
        kind, item = await next_event(stream)
        assert kind == "DELETED"
        assert int(item["metadata"]["resourceVersion"]) > int(revision)


async def test_a_watch_without_a_revision_begins_with_what_is_there(client: Client) -> None:
    client.shelf.edit(split())
    async with client.watch() as stream:
        assert (await next_event(stream))[0] == "ADDED"
    async with client.watch(
        "&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"
    ) as stream:
        assert (await next_event(stream))[0] == "ADDED"
        kind, mark = await next_event(stream)
        assert (kind, mark["metadata"]["annotations"]) == ("BOOKMARK", {"k8s.io/initial-events-end": "true"})


async def test_a_watch_from_a_forgotten_revision_is_told_so(tmp_path: Path) -> None:
    async with served(tmp_path, window=3) as client:
        revision = (await client.get(SPLITS))["metadata"]["resourceVersion"]
        for weight in range(5):
            client.shelf.edit(split(weight=weight))
        for old in (revision, "1", str(client.store.revision + 5)):
            async with client.watch(f"&resourceVersion={old}") as stream:
                kind, status = await next_event(stream)
                assert (kind, status["code"], status["reason"]) == ("ERROR", 410, "Expired")


async def test_a_quiet_watch_gets_bookmarks(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "BOOKMARK_EVERY", 0.01)
    revision = (await client.get(SPLITS))["metadata"]["resourceVersion"]
    async with client.watch(f"&resourceVersion={revision}&allowWatchBookmarks=true") as stream:
        kind, mark = await next_event(stream)
        assert (kind, mark["kind"], mark["metadata"]["resourceVersion"]) == ("BOOKMARK", "TrafficSplit", revision)


async def test_an_object_that_no_longer_fits_the_selector_is_deleted_for_the_watch(client: Client) -> None:
    client.shelf.edit(split(labels={"app": "web"}))
    async with client.watch("&labelSelector=app%3Dweb") as stream:
        assert (await next_event(stream))[0] == "ADDED"
        client.shelf.edit(split(labels={"app": "other"}))
        assert (await next_event(stream))[0] == "DELETED"
        client.shelf.edit(split(labels={"app": "web"}))
        assert (await next_event(stream))[0] == "ADDED"


async def test_a_watch_ends_when_its_time_is_up_and_with_the_server(client: Client) -> None:
    async with client.watch("&timeoutSeconds=0") as stream:
        assert await asyncio.wait_for(stream.read(), 10) == b""
    async with client.watch() as stream:
        rest = asyncio.create_task(stream.read())
        await client.server.stop()
        assert await asyncio.wait_for(rest, 10) == b""


async def test_a_watched_table_has_its_heads_once(client: Client) -> None:
    client.shelf.edit(split(), split("other"))
    async with client.session.get(f"{client.url}{SPLITS}?watch=true", headers={"Accept": TABLE}) as answer:
        _, first = await next_event(answer.content)
        _, second = await next_event(answer.content)
    assert [column["name"] for column in first["columnDefinitions"]][:2] == ["Name", "Service"]
    assert second["columnDefinitions"] is None
    assert second["rows"][0]["object"]["kind"] == "PartialObjectMetadata"


# ------------------------------------------------------------------------------------------------------- requests


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/apis/split.smi-spec.io/v1alpha9", 404),
        ("GET", "/apis/nowhere.io", 404),
        ("GET", "/api/v1/namespaces/shop/secrets", 404),
        ("GET", "/openapi/v3/apis/x/v1", 404),
        ("GET", "/openapi/v1", 404),
        ("GET", f"{SPLITS}/web/log", 404),
        ("GET", f"{SPLITS}/web/status/x", 404),
        ("POST", f"{SPLITS}/web", 405),
        ("PUT", SPLITS, 405),
        ("PATCH", f"{SPLITS}/web/status", 405),
        ("GET", f"{SPLITS}?labelSelector=((", 400),
        ("GET", f"{SPLITS}?watch=true&resourceVersion=x", 400),
        ("GET", f"{SPLITS}?watch=true&timeoutSeconds=x", 400),
        ("POST", "/apis/split.smi-spec.io/v1alpha4/trafficsplits", 400),
    ],
)
async def test_what_cannot_be_answered_is_a_status(client: Client, method: str, path: str, status: int) -> None:
    answer = await client.ask(method, path, {} if method != "GET" else None)
    assert (answer.status, answer.body["kind"], answer.body["code"]) == (status, "Status", status)


IDENTITY = {"apiVersion": "split.smi-spec.io/v1alpha4", "kind": "TrafficSplit"}
DEEP = b'{"a":' * 5000 + b"1" + b"}" * 5000


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "application/json"),
        (b"{", "application/json"),
        (b"[]", "application/json"),
        (b"7", "application/json"),
        (b'{"metadata": 7}', "application/json"),
        (b'{"metadata": {"name": 7}}', "application/json"),
        (b'{"metadata": {"name": "web"}, "spec": NaN}', "application/json"),
        (b'{"metadata": {"name": "\\ud800"}}', "application/json"),
        (b'{"metadata": {"name": "web", "labels": 7}}', "application/json"),
        (b'{"metadata": {"name": "web", "annotations": [1]}}', "application/json"),
        (b'{"metadata": {"name": "web", "managedFields": 7}}', "application/json"),
        (b'{"metadata": {"name": "../x"}}', "application/json"),
        (DEEP, "application/json"),
        (b'{"metadata": {"name": "web"}, "spec": ' + DEEP + b"}", "application/json"),
        (b"\xff\xfe", "application/json"),
        (b"a: &a [*a]", "application/yaml"),
        (b"spec: [&a [x, x], &b [*a, *a], &c [*b, *b]]", "application/yaml"),
        (b"a: !!python/object:os.system {}", "application/yaml"),
        (b"k8s\x00\xff\xff\xff\xff", "application/vnd.kubernetes.protobuf"),
        (b"", "application/vnd.kubernetes.protobuf"),
        (b"{}", "application/cbor"),
    ],
)
async def test_a_hostile_body_is_refused_and_nothing_is_written(client: Client, body: bytes, kind: str) -> None:
    for path in (SPLITS, "/api/v1/namespaces/shop/pods", "/api/v1/namespaces"):
        answer = await client.ask("POST", path, body, kind)
        assert 400 <= answer.status < 500, answer
    assert set(client.shelf.objects) == {Ref("Namespace", "", "shop")}


@pytest.mark.parametrize(
    ("patch", "kind"),
    [
        (7, "application/merge-patch+json"),
        ({"kind": "Other"}, "application/merge-patch+json"),
        ({"spec": {"backends": {}}}, "application/merge-patch+json"),
        ([{"op": "remove", "path": ""}], "application/json-patch+json"),
        ([{"op": "add", "path": "/spec/backends/0/weight/x", "value": 1}], "application/json-patch+json"),
        ({"metadata": {"name": "web"}}, "application/strategic-merge-patch+json"),
        ({"metadata": {"name": "web"}}, "text/plain"),
        ([], "application/apply-patch+yaml"),
        ({"apiVersion": "v1", "kind": "TrafficSplit"}, "application/apply-patch+yaml"),
        ({**IDENTITY, "metadata": {"labels": [1]}}, "application/apply-patch+yaml"),
        ({**IDENTITY, "spec": 7}, "application/apply-patch+yaml"),
    ],
)
async def test_a_hostile_patch_is_refused_and_nothing_is_written(client: Client, patch: Any, kind: str) -> None:
    client.shelf.edit(split())
    answer = await client.ask("PATCH", f"{STORED}?force=true", patch, kind)
    assert 400 <= answer.status < 500, answer
    assert client.shelf.written(SPLIT) == split()


async def test_a_body_that_is_too_large_is_refused(client: Client) -> None:
    answer = await client.ask("POST", SPLITS, io.BytesIO(b"x" * (server_module.MAX_BODY + 1)))
    assert (answer.status, answer.body["reason"]) == (413, "RequestEntityTooLarge")


async def test_an_invalid_object_of_a_file_is_listed_like_any_other(client: Client) -> None:
    bad: dict[str, Any] = {**split("bad"), "spec": {"backends": 7}, "extra": [1]}
    odd = {
        "apiVersion": "split.smi-spec.io/v1alpha9",
        "kind": "TrafficSplit",
        "metadata": {"name": "odd", "namespace": "shop"},
    }
    client.shelf.edit(bad, odd)
    for version in ("v1alpha1", "v1alpha4"):
        found = await client.get(SPLITS.replace("v1alpha4", version))
        assert [item["metadata"]["name"] for item in found["items"]] == ["bad", "odd"]
    assert len((await client.get(SPLITS, Accept=TABLE))["rows"]) == 2


async def test_the_old_openapi_form_describes_nothing_and_is_there_for_kubectl_to_go_on(client: Client) -> None:
    assert (await client.get("/openapi/v2"))["paths"] == {}
    accept = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
    answer = await client.ask("GET", "/openapi/v2", headers={"Accept": accept})
    assert (answer.status, answer.body) == (200, "")
