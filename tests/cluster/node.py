"""A whole cluster of one real node: a control plane, containerd, kubelet, scheduler, kube-proxy, a bridge and CoreDNS.

All of it stands in a `Sandbox`, so nothing on the machine changes and everything ends with the test process. Images are
those of `images`; nothing is pulled. It needs root, programs of Debian (`NEEDED`) and the sets `kubernetes`, `node` and
`pods` of tests/tools.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Self

import yaml

from tests.cluster import images
from tests.cluster.control_plane import ControlPlane, RequestError
from tests.cluster.program import Program, ProgramError
from tests.cluster.sandbox import NEEDED as SANDBOX
from tests.cluster.sandbox import UNSHARE, Sandbox, SandboxError, missing, tails
from tests.tools import binary

NEEDED: Final = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "conntrack": "conntrack",
}
PLUGINS: Final = Path("/usr/lib/cni")
NAME: Final = "node-1"
POD_RANGE: Final = "10.244.0.0/24"
DNS: Final = "10.96.0.10"
SOCKET: Final = "/run/containerd.sock"
PATIENCE: Final = 180.0


def problem() -> str:
    """Say in one line why no node can be started here, or nothing: before anything is built for it."""
    if lacking := missing({**SANDBOX, **images.NEEDED, **NEEDED}):
        return lacking
    if not (PLUGINS / "bridge").exists():
        return "a node needs the Debian package containernetworking-plugins"
    tried = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, check=False)
    return f"a node needs namespaces of its own: {tried.stderr.strip()}" if tried.returncode else ""


class Node:
    """A running cluster; `plane` is its control plane, with every method of one."""

    def __init__(self, folder: Path, archives: Mapping[str, Path]) -> None:
        self.folder = folder
        self._archives = archives
        self._sandbox = Sandbox(folder)
        self._programs: list[Program] = []
        self._running = contextlib.ExitStack()
        self.plane: ControlPlane

    def __enter__(self) -> Self:
        if why := problem():
            raise SandboxError(why)
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End everything. Images are thrown away: they are the most of what is on disk."""
        self._running.close()
        for program in self._programs:
            program.stop(kill=True)  # they have ended with the sandbox
        shutil.rmtree(self._data, ignore_errors=True)

    def wait_for(self, condition: Callable[[], bool], what: str, timeout: float = PATIENCE) -> None:
        """Poll a condition until it is true; the failure shows pods and Events."""
        deadline = time.monotonic() + timeout
        while not condition():
            for program in self._programs:
                program.check()
            if time.monotonic() > deadline:
                raise ProgramError(f"waited {timeout:.0f} s in vain for {what}\n{self.state()}")
            time.sleep(0.2)

    def state(self) -> str:
        """Return what somebody would ask first: pods, Events, the last words of the node's programs."""
        pods = self.plane.kubectl("get", "pods", "-A", "-o", "wide", check=False).stdout
        events = self.plane.kubectl("get", "events", "-A", "--sort-by=.lastTimestamp", check=False).stdout
        return f"{pods}\n{chr(10).join(events.splitlines()[-25:])}\n{tails(self._programs)}"

    def run(self, *command: str) -> str:
        """Run a command on the node."""
        return self._sandbox.run(*command)

    # ------------------------------------------------------------------------------------------------------ start
    @property
    def _data(self) -> Path:
        return self.folder / "containerd"

    def _start(self) -> None:
        place = self._running.enter_context(self._sandbox)
        # As clusters are mostly set up: the API server calls a webhook at its Service's address, by kube-proxy.
        arguments = (
            f"--advertise-address={place.address}",
            "--endpoint-reconciler-type=lease",
            "--kubelet-preferred-address-types=InternalIP",
            "--enable-aggregator-routing=false",
            "--allow-privileged=true",
        )
        where = {"host": place.address, "inside": place.inside, "arguments": arguments}
        plane = ControlPlane(self.folder, controller_manager=True, nodes=True, **where)  # type: ignore[arg-type]
        self.plane = self._running.enter_context(plane)
        self._program("containerd", "containerd", "--config", self._write("containerd.toml", _containerd(self._data)))
        self._until_containerd_answers()
        for archive in self._archives.values():
            place.run("ctr", "--address", SOCKET, "--namespace", "k8s.io", "images", "import", str(archive))
        self._write("cni/10-bridge.conflist", json.dumps(_bridge()))
        scheduler = plane.user("system:kube-scheduler")
        access = [f"--{each}kubeconfig={scheduler}" for each in ("", "authentication-", "authorization-")]
        self._program("kube-scheduler", binary("kube-scheduler", "node"), *access, "--leader-elect=false")
        self._program("kubelet", binary("kubelet", "node"), *self._kubelet(place))
        self._program("kube-proxy", binary("kube-proxy", "node"), *self._proxy())
        plane.apply(*_dns())
        self.wait_for(self._is_ready, "the node")
        self.wait_for(lambda: self.is_rolled_out("kube-system", "coredns"), "CoreDNS")

    def _program(self, name: str, *command: str | Path) -> None:
        program = Program(name, [*self._sandbox.inside, *map(str, command)], self.folder)
        self._programs.append(program)
        program.start()

    def _until_containerd_answers(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                self._sandbox.run("ctr", "--address", SOCKET, "version")
            except ProgramError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                return

    def _is_ready(self) -> bool:
        try:
            status = self.plane.get(f"/api/v1/nodes/{NAME}")["status"]
        except RequestError:
            return False
        return any(each["type"] == "Ready" and each["status"] == "True" for each in status.get("conditions", ()))

    def is_rolled_out(self, namespace: str, name: str) -> bool:
        """Tell whether a Deployment has the pods that it wants, all available and none of an older template."""
        found = self.plane.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}")
        status, wanted = found.get("status", {}), found["spec"]["replicas"]
        counts = [status.get(each, 0) for each in ("replicas", "updatedReplicas", "availableReplicas")]
        return bool(status.get("observedGeneration") == found["metadata"]["generation"] and counts == [wanted] * 3)

    # ---------------------------------------------------------------------------------------------------- settings
    def _write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    def _kubelet(self, place: Sandbox) -> list[str]:
        certificate, key = self.plane.server_certificate("kubelet-server", NAME, place.address)
        config = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {"anonymous": {"enabled": False}, "x509": {"clientCAFile": str(self.plane.ca)}},
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(certificate),
            "tlsPrivateKeyFile": str(key),
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{place.name}",
            "failSwapOn": False,
            "failCgroupV1": False,
            "containerRuntimeEndpoint": f"unix://{SOCKET}",
            "clusterDNS": [DNS],
            "clusterDomain": "cluster.local",
            "resolvConf": "",
            "evictionHard": dict.fromkeys(("nodefs.available", "imagefs.available"), "1%"),
            "imageGCHighThresholdPercent": 100,
            "nodeStatusUpdateFrequency": "5s",
            "maxPods": 110,
        }
        kubeconfig = self.plane.user(f"system:node:{NAME}", ["system:nodes"])
        return [
            f"--config={self._write('kubelet.yaml', yaml.safe_dump(config))}",
            f"--kubeconfig={kubeconfig}",
            f"--hostname-override={NAME}",
            f"--node-ip={place.address}",
        ]

    def _proxy(self) -> list[str]:
        config = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "clusterCIDR": POD_RANGE,
            "clientConnection": {"kubeconfig": str(self.plane.user("system:kube-proxy"))},
            "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }
        return [f"--config={self._write('kube-proxy.yaml', yaml.safe_dump(config))}", f"--hostname-override={NAME}"]


def _containerd(data: Path) -> str:
    """Return containerd's settings. Without CAP_SYS_RESOURCE runc may not write a negative oom_score_adj."""
    return f"""
version = 2
root = "{data}"
state = "/run/containerd"
[grpc]
  address = "{SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{images.PAUSE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{PLUGINS}"
    conf_dir = "{data.parent / "cni"}"
"""


def _bridge() -> dict[str, Any]:
    ipam = {"type": "host-local", "ranges": [[{"subnet": POD_RANGE}]], "routes": [{"dst": "0.0.0.0/0"}]}
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": True, "hairpinMode": True, "ipam": ipam}
    return {"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge]}


_COREFILE: Final = """
.:53 {
    errors
    health
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
        ttl 5
    }
    cache 5
}
"""


def _dns() -> list[dict[str, Any]]:
    """Return CoreDNS, which looks at Services and EndpointSlices."""
    core = {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]}
    slices = {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]}
    place = {"name": "coredns", "namespace": "kube-system"}
    labels = {"k8s-app": "kube-dns"}
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]
    container = {
        "name": "coredns",
        "image": images.COREDNS,
        "imagePullPolicy": "Never",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns"}],
    }
    pod = {
        "serviceAccountName": "coredns",
        "dnsPolicy": "Default",
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
    }
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "coredns"}
    rbac = "rbac.authorization.k8s.io/v1"
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": place},
        {"apiVersion": rbac, "kind": "ClusterRole", "metadata": {"name": "coredns"}, "rules": [core, slices]},
        {
            "apiVersion": rbac,
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "coredns"},
            "roleRef": role,
            "subjects": [{"kind": "ServiceAccount", **place}],
        },
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": place, "data": {"Corefile": _COREFILE}},
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": place,
            "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": "kube-system"},
            "spec": {"clusterIP": DNS, "selector": labels, "ports": ports},
        },
    ]


if __name__ == "__main__":
    lacking = problem()
    sys.exit(f"error: {lacking}" if lacking else 0)
