"""The fault proxy before the real API server: the faults look to a client as they do in a real cluster."""

import asyncio

from tests.cluster.control_plane import PORT, ControlPlane
from tests.cluster.fault_proxy import PASS, TOO_MANY, ByteProxy, HttpProxy, Refuse, gone_as_event, lists, watches


async def test_client_certificates_pass_a_byte_proxy(api_server: ControlPlane) -> None:
    async with ByteProxy(api_server.host, PORT) as proxy:
        kubeconfig = api_server.user("through-the-proxy", ["system:masters"], server=proxy.url)
        shown = await asyncio.to_thread(api_server.kubectl, "get", "ns", "default", "-o=name", kubeconfig=kubeconfig)
        assert shown.stdout.strip() == "namespace/default"
        await proxy.set(Refuse())
        refused = await asyncio.to_thread(
            api_server.kubectl, "get", "ns", "default", kubeconfig=kubeconfig, check=False
        )
        assert "refused" in refused.stderr
        await proxy.set(PASS)
        await asyncio.to_thread(api_server.kubectl, "get", "ns", "default", kubeconfig=kubeconfig)


async def test_kubectl_obeys_retry_after_of_the_http_proxy(api_server: ControlPlane, namespace: str) -> None:
    token = api_server.service_account_token(namespace, "default")
    review = ["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"]
    async with HttpProxy(api_server.url, api_server.tls(), api_server.tls("admin", ["system:masters"])) as proxy:
        throttled = proxy.rule(lambda request: request.path.endswith("/selfsubjectreviews"), TOO_MANY, times=1)
        kubeconfig = api_server.token_kubeconfig(token, proxy.url, proxy.authority.pem)
        said = await asyncio.to_thread(api_server.kubectl, *review, kubeconfig=kubeconfig)
        assert said.stdout == f"system:serviceaccount:{namespace}:default"
        assert throttled.used == 1


async def test_an_error_event_in_a_real_watch(api_server: ControlPlane) -> None:
    async with HttpProxy(api_server.url, api_server.tls(), api_server.tls("admin", ["system:masters"])) as proxy:
        proxy.rule(watches("namespaces"), gone_as_event(), times=1)
        never = proxy.rule(lists("nothings"), TOO_MANY)
        kubeconfig = api_server.user("watcher", server=proxy.url, ca=proxy.authority.pem)
        watching = ["get", "ns", "--watch", "--request-timeout=20s", "-o=name"]
        seen = await asyncio.to_thread(api_server.kubectl, *watching, kubeconfig=kubeconfig, check=False)
        assert "namespace/default" in seen.stdout
        assert seen.stdout.splitlines()[-1].startswith("status/")  # kubectl shows the Status of an ERROR event
        assert never.used == 0
