"""An implementation without a mesh, for the tests of the suite itself: clients go straight to the workloads.

It speaks the driver's protocol and needs no proxy, so that the suite can be tried in seconds: TS-01 passes on it, and
nothing of access or splits does. SMI_PLAIN makes it misbehave: `mute` never answers, `dies` ends in the middle,
`silent` takes connections and never says a word, `closed` refuses every one; `deletes:FILE` writes down the kinds of
what it is told to delete; `unwritten` gives no server a ledger; `clings` does not end when it is told to, only when
nobody speaks to it any more; `orphans` ends in the middle, and `leaves` at the end, without a process that has its
stdout; `deaf` answers nothing after hello; `rubbish` writes lines that are no answers; `text` answers with ids that are
text.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Raw = dict[str, Any]

MODE = os.environ.get("SMI_PLAIN", "")
GROUPS = ("access.smi-spec.io", "specs.smi-spec.io", "split.smi-spec.io")
_TRIES = 200


def _mortal() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: also if the driver dies, no workload outlives it


class Plain:
    """Keeps objects in memory and workloads as processes."""

    def __init__(self) -> None:
        self._objects: dict[tuple[str, str, str], Raw] = {}
        self._pods: dict[str, list[tuple[str, str, dict[str, str], subprocess.Popen[bytes]]]] = {}
        self._next = int.from_bytes(os.urandom(2), "big")
        self._echo: tuple[str, str] = ("", "")
        self._silent = socket.create_server(("127.0.0.1", 0), backlog=128)

    def hello(self, request: Mapping[str, Any]) -> Raw:
        self._echo = (request["python"], request["echo"])
        served = {group: ["v1alpha3", "v1alpha4"] for group in GROUPS}
        return {
            "protocol": 1,
            "capabilities": ["tcp", "udp", "pod-ip", "scale", "dry-run"],
            "served": served,
            "environment": {},
        }

    def apply(self, request: Mapping[str, Any]) -> Raw:
        for raw in () if request.get("dryRun") else request["objects"]:
            self._objects[_key(raw)] = raw
        return {"results": [{"code": 201} for _ in request["objects"]]}

    def delete(self, request: Mapping[str, Any]) -> Raw:
        for raw in request["objects"]:
            self._objects.pop(_key(raw), None)
            if MODE.startswith("deletes:"):
                with Path(MODE.partition(":")[2]).open("a") as file:
                    file.write(f"{raw['kind']}\n")
        return {}

    def get(self, request: Mapping[str, Any]) -> Raw:
        return {"object": self._objects.get(_key(request["object"]))}

    def events(self, request: Mapping[str, Any]) -> Raw:
        del request
        return {"events": []}

    def deploy(self, request: Mapping[str, Any]) -> Raw:
        app = request["app"]
        self.undeploy(app)
        pods = self._pods[f"{app['namespace']}/{app['name']}"] = []
        for number in range(app["replicas"]):
            self._next = (self._next + 1) % 60_000
            address = f"127.201.{self._next // 250 + 1}.{self._next % 250 + 1}"
            name = f"{app['name']}-6c5b9f7d8c-x2x4{number}"  # as Kubernetes names pods of Deployments
            pods.append((name, address, app["labels"], self._start(app, name, address)))
        for _, address, _, _ in pods if app["ports"] else ():
            self._wait(address, [port["port"] for port in app["ports"] if port["protocol"] != "udp"])
        return {"pods": [{"name": name, "address": address} for name, address, _, _ in pods]}

    def _start(self, app: Mapping[str, Any], name: str, address: str) -> subprocess.Popen[bytes]:
        if not app["ports"]:
            return subprocess.Popen(["sleep", "600"], preexec_fn=_mortal)
        told = {
            "ECHO_BIND": address,
            "ECHO_POD": name,
            "ECHO_APP": app["name"],
            "ECHO_NAMESPACE": app["namespace"],
            "ECHO_ACCOUNT": app["account"],
            "ECHO_PORTS": json.dumps(app["ports"]),
            "ECHO_LEDGER": "/dev/null" if MODE == "unwritten" else app["ledger"].replace("{pod}", name),
        }
        return subprocess.Popen([*self._echo, "serve"], env={**os.environ, **told}, preexec_fn=_mortal)

    @staticmethod
    def _wait(address: str, ports: list[int]) -> None:
        for port in ports:
            for _ in range(_TRIES):
                with socket.socket() as trial:
                    if not trial.connect_ex((address, port)):
                        break
                time.sleep(0.02)

    def undeploy(self, request: Mapping[str, Any]) -> Raw:
        for *_, process in self._pods.pop(f"{request['namespace']}/{request['name']}", ()):
            process.kill()
            process.wait()
        return {}

    def address(self, request: Mapping[str, Any]) -> Raw:
        if MODE in {"dies", "orphans"}:
            if MODE == "orphans":
                subprocess.Popen(["sleep", "600"])
            os._exit(7)
        if MODE == "closed":
            return {"addresses": [["127.0.0.1", 9]]}
        if MODE == "silent":
            return {"addresses": [list(self._silent.getsockname())]}
        namespace, _, name = request["service"].partition("/")
        service = self._objects.get(("Service", namespace, name))
        if service is None:
            return {"addresses": []}
        spec = service["spec"]
        port = next((port for port in spec["ports"] if port["port"] == request["port"]), None)
        found = [
            [address, port.get("targetPort", port["port"])]
            for key, pods in sorted(self._pods.items())
            for _, address, labels, _ in pods
            if port and key.startswith(f"{namespace}/") and spec["selector"].items() <= labels.items()
        ]
        return {"addresses": found}

    def end(self) -> None:
        for key in list(self._pods):
            namespace, _, name = key.partition("/")
            self.undeploy({"namespace": namespace, "name": name})


def _key(raw: Mapping[str, Any]) -> tuple[str, str, str]:
    return raw["kind"], raw["metadata"].get("namespace", ""), raw["metadata"]["name"]


def main() -> None:
    """Answer one request after the other until told to stop, or until stdin closes."""
    plain = Plain()
    for line in sys.stdin:
        request = json.loads(line)
        if MODE == "mute" or (MODE == "clings" and request["op"] == "stop"):
            continue
        if MODE == "deaf" and request["op"] != "hello":
            continue
        if MODE == "rubbish":
            while True:
                sys.stdout.write("y\n")
        answer = {} if request["op"] == "stop" else getattr(plain, request["op"])(request)
        number = str(request["id"]) if MODE == "text" else request["id"]
        sys.stdout.write(json.dumps({"id": number, **answer}) + "\n")
        sys.stdout.flush()
        if request["op"] == "stop":
            break
    if MODE == "leaves":
        subprocess.Popen(["sleep", "600"])
    plain.end()


if __name__ == "__main__":
    main()
