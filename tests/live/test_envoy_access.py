"""Who gets through: HTTP access rules in real Envoys, and everything that tries to get around them."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Iterable

import pytest
import pytest_asyncio

from smi_adapter.identity.ca import Authority
from smi_adapter.identity.issuer import Issuer
from smi_adapter.mesh import AccessMode
from tests import meshes
from tests.live.apps import HttpClient, Reply, get, http2
from tests.live.fleet import until
from tests.live.town import (
    ANYTHING,
    CLIENT,
    OTHER,
    PODS,
    WEB,
    Town,
    dial,
    open_town,
    proxy,
    web,
)
from tests.meshes import match, rule, spiffe

pytestmark = [pytest.mark.live, pytest.mark.asyncio(loop_scope="module")]

BOTH = (CLIENT, OTHER)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def town() -> AsyncIterator[Town]:
    async with open_town() as opened:
        yield opened


async def as_other(path: str = "/", method: str = "GET", headers: Iterable[tuple[str, str]] = ()) -> Reply:
    return await get(dial("web", "other"), WEB, path, method, headers)


async def test_without_a_rule_every_request_is_403_and_the_log_says_why(town: Town) -> None:
    await town.publish(web(), web_rules=())
    reply = await town.get("/why")
    assert (reply.status, reply.body) == (403, b"RBAC: access denied")
    await until(lambda: town.fleet.log(proxy("v1"), path="/why"))
    line = town.fleet.log(proxy("v1"), path="/why")[-1]
    assert line["details"] == "rbac_access_denied_matched_policy[none]"
    assert line["source"] == CLIENT
    assert line["listener"] == f"in/shop/v1/{WEB}"


async def test_an_allowed_request_is_logged_with_the_rule_that_allowed_it(town: Town) -> None:
    await town.publish(web(), web_rules=(rule([CLIENT], name="the-target", label="rules[2] HTTPRouteGroup g"),))
    assert (await town.get("/named-rule")).app == "v1"
    await until(lambda: town.fleet.log(proxy("v1"), path="/named-rule"))
    line = town.fleet.log(proxy("v1"), path="/named-rule")[-1]
    assert line["policy"] == "TrafficTarget shop/the-target rules[2] HTTPRouteGroup g"


async def test_only_the_named_identity_is_let_in(town: Town) -> None:
    await town.publish(web(callers=BOTH), web_rules=(rule([OTHER]),))
    assert (await town.get()).status == 403
    assert (await as_other()).app == "v1"


@pytest.mark.parametrize(
    ("path", "method", "headers", "allowed"),
    [
        ("/books", "GET", [("x-client", "buyer")], True),
        ("/books/1", "HEAD", [("x-client", "buyer")], True),
        ("/books", "POST", [("x-client", "buyer")], False),
        ("/books", "GET", [], False),
        ("/books", "GET", [("x-client", "buyers")], False),
        ("/book", "GET", [("x-client", "buyer")], False),
        ("/x/books", "GET", [("x-client", "buyer")], False),
        ("/other?/books", "GET", [("x-client", "buyer")], False),
        ("/books", "GET", [("x-client", "buyer"), ("x-client", "x")], True),
        ("/books", "GET", [("x-client", "x"), ("x-client", "buyer")], True),
        ("/sell", "POST", [], True),
        ("/sell", "GET", [], False),
    ],
)
async def test_path_method_and_headers_must_all_hold_and_rules_add_up(
    town: Town, path: str, method: str, headers: list[tuple[str, str]], allowed: bool
) -> None:
    rules = (
        rule([CLIENT], [match("/books", "GET", "HEAD", headers={"x-client": "buyer"})]),
        rule([CLIENT], [match("/sell", "POST")], name="second"),
    )
    await town.publish(web(), web_rules=rules)
    async with await HttpClient.connect(dial("web"), WEB) as client:
        if method == "HEAD":
            replies = await http2(
                dial("web"),
                WEB,
                [(":method", method), (":path", path), (":scheme", "http"), (":authority", "x"), *headers],
            )
            assert replies[0].status == (200 if allowed else 403)
            return
        assert (await client.request(path, method, headers)).status == (200 if allowed else 403)


@pytest.mark.parametrize(
    ("path", "statuses"),
    [
        ("/public/a", {200}),
        ("//public/a", {200}),
        ("/public/../admin", {403}),
        ("/public/%2e%2e/admin", {403}),
        ("/public/%2E%2E/admin", {403}),
        ("/public/.%2e/admin", {403}),
        ("/public/..\\admin", {403}),
        ("/public/..%2fadmin", {400}),
        ("/public/..%2Fadmin", {400}),
        ("/public/..%5cadmin", {400}),
        ("/public/..%5Cadmin", {400}),
        ("/public/..;/admin", {403}),
        ("/public/%2e%2e;/admin", {400}),
        ("/public/%2e%2e;a=b/admin", {400}),
        ("/public/%2e;/admin", {400}),
        ("/public/..;a=b/admin", {403}),
        ("/public/./../admin", {403}),
        ("/public//../../admin", {403}),
        ("/public/a/../../admin", {403}),
        ("/admin%00/public/", {400}),
        ("/admin;/public/a", {403}),
        ("/admin?/public/a", {403}),
        ("/admin#/public/a", {400}),
        ("/public/a#f", {400}),
        ("/admin/%2e%2e/public/a", {200}),  # it is /public/a
        ("/PUBLIC/a", {403}),
        ("/%70ublic/a", {200, 403}),  # Envoy may or may not decode a letter; what it matches is what it forwards
        ("/public\xff/a", {400, 403}),
        ("http://any.example/admin", {403}),
        ("http://any.example/public/../admin", {403}),
    ],
)
async def test_a_path_cannot_be_written_so_that_a_rule_for_another_path_allows_it(
    town: Town, path: str, statuses: set[int]
) -> None:
    """Sent to the server's proxy itself, so that only its own settings count."""
    await town.publish(web(), web_rules=(rule([CLIENT], [match("/public/.*")]),))
    pod = PODS["v1"]
    tls = town.fleet.client_tls(CLIENT)
    async with await HttpClient.connect(pod.address, WEB, source=PODS["client"].address, tls=tls) as client:
        reply = await client.request(path)
    assert reply.status in statuses, reply
    if reply.status == 200:
        assert "admin" not in reply.echo["path"]
        assert reply.echo["path"].startswith(("/public/", "/%70ublic/"))


async def test_a_connection_permission_on_an_http_port_allows_every_request(town: Town) -> None:
    await town.publish(web(), web_rules=(rule([CLIENT], None),))
    assert (await town.get("/anything", "DELETE")).status == 200


async def test_an_empty_match_allows_every_request(town: Town) -> None:
    await town.publish(web(), web_rules=(rule([CLIENT], [match()]),))
    assert (await town.get("/anything", "DELETE")).status == 200


async def test_a_rule_without_matches_sources_or_addresses_grants_nothing_and_is_no_nack(town: Town) -> None:
    nothing = (rule([CLIENT], []), rule([], None), rule([CLIENT], None, addresses=()))
    await town.publish(web(), web_rules=nothing)
    assert (await town.get()).status == 403


async def test_audit_mode_allows_and_reports_what_would_be_denied(town: Town) -> None:
    rules = (rule([CLIENT], [match("/granted")], name="granted"),)
    await town.publish(web(), web_rules=rules, mode=AccessMode.AUDIT)
    assert (await town.get("/not-granted")).app == "v1"
    assert (await town.get("/granted")).app == "v1"
    log = town.fleet.log
    await until(lambda: log(proxy("v1"), path="/not-granted") and log(proxy("v1"), path="/granted"))
    assert log(proxy("v1"), path="/not-granted")[-1]["would_be"] == "denied"
    allowed = log(proxy("v1"), path="/granted")[-1]
    assert allowed["would_be"] == "allowed"
    assert allowed["would_be_policy"] == "TrafficTarget shop/granted rules[0]"
    stats = town.fleet.envoys[proxy("v1")].stats("http.in/")
    assert [name for name in stats if name.endswith("rbac.shadow_denied") and stats[name] > 0]


async def test_permissive_mode_allows_everything_but_still_only_to_proxies(town: Town) -> None:
    await town.publish(web(), web_rules=(), mode=AccessMode.PERMISSIVE)
    assert (await town.get()).app == "v1"
    with pytest.raises((OSError, asyncio.IncompleteReadError)):
        await get(PODS["v1"].address, WEB)


async def test_leaving_permissive_mode_closes_at_the_next_request_of_an_open_connection(town: Town) -> None:
    await town.publish(web(), web_rules=(), mode=AccessMode.PERMISSIVE)
    async with await HttpClient.connect(dial("web"), WEB) as client:
        assert (await client.request()).status == 200
        await town.publish(web(), web_rules=())
        assert (await client.request()).status == 403


async def test_a_revocation_is_in_effect_on_a_live_connection_at_once(town: Town) -> None:
    await town.publish(web())
    async with await HttpClient.connect(dial("web"), WEB) as client:
        assert (await client.request()).status == 200
        await town.publish(web(), web_rules=())
        assert (await client.request()).status == 403
        await town.publish(web())
        assert (await client.request()).status == 200


async def test_a_rule_for_some_pods_counts_the_connections_own_source_address(town: Town) -> None:
    await town.publish(web(), web_rules=(rule([CLIENT], None, addresses=(PODS["client"].address, "127.9.9.9")),))
    assert (await town.get(headers=[("x-forwarded-for", "127.9.9.9")])).app == "v1"
    await town.publish(web(), web_rules=(rule([CLIENT], None, addresses=(PODS["other"].address,)),))
    forged = [("x-forwarded-for", PODS["other"].address), ("x-real-ip", PODS["other"].address)]
    assert (await town.get(headers=forged)).status == 403


async def test_the_right_address_without_the_right_identity_is_not_enough(town: Town) -> None:
    await town.publish(web(callers=BOTH), web_rules=(rule([CLIENT], None, addresses=(PODS["other"].address,)),))
    assert (await as_other()).status == 403


async def test_plain_http_to_the_servers_proxy_is_refused(town: Town) -> None:
    await town.publish(web())
    with pytest.raises((OSError, asyncio.IncompleteReadError)):
        await get(PODS["v1"].address, WEB)


async def test_tls_without_a_client_certificate_is_refused(town: Town) -> None:
    await town.publish(web())
    with pytest.raises((OSError, asyncio.IncompleteReadError)):
        async with await HttpClient.connect(PODS["v1"].address, WEB, tls=town.fleet.client_tls("")) as client:
            await client.request()


async def test_a_certificate_of_another_authority_is_refused(town: Town) -> None:
    """It names the very identity that is allowed."""
    await town.publish(web())
    false = town.fleet.client_tls(CLIENT, Issuer(Authority.create(meshes.DOMAIN, time.time())))
    with pytest.raises((OSError, asyncio.IncompleteReadError)):
        async with await HttpClient.connect(PODS["v1"].address, WEB, tls=false) as client:
            await client.request()


async def test_a_client_that_goes_around_its_own_proxy_meets_the_same_rules(town: Town) -> None:
    """T13: the server enforces."""
    await town.publish(web(callers=[CLIENT]), web_rules=(rule([CLIENT], [match("/open")]),))
    for identity, path, status in ((CLIENT, "/open", 200), (CLIENT, "/shut", 403), (OTHER, "/open", 403)):
        tls = town.fleet.client_tls(identity)
        async with await HttpClient.connect(PODS["v1"].address, WEB, tls=tls) as client:
            assert (await client.request(path)).status == status, (identity, path)


async def test_an_identity_cannot_be_claimed_by_a_header(town: Town) -> None:
    await town.publish(web(callers=BOTH), web_rules=(rule([OTHER]),))
    claim = f"By=spiffe://x;URI={OTHER}"
    assert (await town.get(headers=[("x-forwarded-client-cert", claim)])).status == 403
    await town.publish(web(callers=BOTH), web_rules=(rule([CLIENT]),))
    tls = town.fleet.client_tls(CLIENT)
    async with await HttpClient.connect(PODS["v1"].address, WEB, tls=tls) as client:
        reply = await client.request(headers=[("x-forwarded-client-cert", claim)])
    seen = dict(reply.echo["headers"])["x-forwarded-client-cert"]
    assert f"URI={CLIENT}" in seen
    assert OTHER not in seen


@pytest.mark.parametrize("value", ["admin\xff", "\xffadmin", "adm\xe9in", "\x80"])
async def test_bytes_beyond_ascii_in_a_filtered_header_open_nothing(town: Town, value: str) -> None:
    await town.publish(web(), web_rules=(rule([CLIENT], [match(headers={"x-role": "admin"})]),))
    assert (await town.get(headers=[("x-role", value)])).status in {400, 403}
    assert (await town.get(headers=[("x-role", "admin")])).status == 200


async def test_a_header_with_an_underscore_is_no_way_to_smuggle_one(town: Town) -> None:
    await town.publish(web(), web_rules=(rule([CLIENT], [match(headers={"x-role": "admin"})]),))
    assert (await town.get(headers=[("x_role", "admin")])).status == 400


async def test_the_session_of_an_earlier_connection_is_not_resumed(town: Town) -> None:
    """On a resumed session Envoy knows no peer: an allowed client would get 403, and no certificate is looked at."""
    await town.publish(web())
    context: ssl.SSLContext = town.fleet.client_tls(CLIENT)
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    def session(before: ssl.SSLSession | None) -> tuple[ssl.SSLSession | None, bool | None]:
        import socket  # noqa: PLC0415

        with (
            socket.create_connection((PODS["v1"].address, WEB), timeout=10) as raw,
            context.wrap_socket(raw, server_hostname="any", session=before) as secured,
        ):
            secured.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            assert b" 200 " in secured.recv(4096)
            return secured.session, secured.session_reused

    first, _ = await asyncio.to_thread(session, None)
    _, reused = await asyncio.to_thread(session, first)
    assert reused is False


async def test_many_connections_in_a_row_are_all_let_in(town: Town) -> None:
    """The callers' proxies open new connections to the server all the time (see the test above)."""
    await town.publish(web())
    for _ in range(10):
        reply = (
            await http2(
                dial("web"), WEB, [(":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "x")]
            )
        )[0]
        assert reply.status == 200
        assert (await town.get()).status == 200


async def test_the_application_learns_who_asks(town: Town) -> None:
    await town.publish(web())
    reply = await town.get()
    assert f"URI={spiffe('client')}" in dict(reply.echo["headers"])["x-forwarded-client-cert"]


async def test_every_rule_of_a_big_target_counts(town: Town) -> None:
    matches = [match(f"/item-{number}$") for number in range(256)]
    await town.publish(web(), web_rules=(rule([CLIENT, *(spiffe(f"c{number}") for number in range(255))], matches),))
    assert (await town.get("/item-255")).status == 200
    assert (await town.get("/item-256")).status == 403
    await town.publish(web(), web_rules=ANYTHING)
