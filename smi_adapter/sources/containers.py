"""What a container's spec means for a process on this machine: its command line and its environment.

Pure. It answers as the kubelet would (`$(NAME)` in arguments, `fieldRef`, the `<SERVICE>_SERVICE_HOST` variables),
with two differences that no-cluster mode needs: the Pod's own address is the one where its application is to listen,
and a Service's address is the one where this Pod dials it. What `SMI_SERVICES` adds is the same for Services of all
namespaces, as JSON of `name.namespace:port` to `address:port`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from smi_adapter.decode.forms import Container, PodForm, ServiceForm
from smi_adapter.findings import Finding, Ref, Severity, finding
from smi_adapter.smi.objects import Key
from smi_adapter.snapshot import Pod

_REFERENCE = re.compile(r"\$\$|\$\(([^()$]*)\)")
_LABEL_PATH = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")


@dataclass(frozen=True, slots=True)
class Invocation:
    """How to start one container."""

    name: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    problems: tuple[Finding, ...] = ()


def invocation(
    container: Container, pod: Pod, form: PodForm, services: Mapping[Key, ServiceForm], python: str
) -> Invocation | None:
    """Return how to start a container; None: it has no command, so somebody else runs it.

    `python` takes the place of a first word `python` or `python3`, so that examples need nothing on PATH.
    """
    if not container.command:
        return None
    environment = dict(service_variables(pod, services))
    problems: list[Finding] = []
    for index, variable in enumerate(container.env or ()):
        if variable.value_from is None:
            environment[variable.name] = expand(variable.value or "", environment)
            continue
        path = variable.value_from.field_ref.field_path if variable.value_from.field_ref else ""
        value = field_value(path, pod, form)
        if value is None:
            text = f"{variable.name}: of the sources of a value only fieldRef works without a cluster, not {path!r}"
            ref = Ref("Pod", pod.meta.namespace, pod.meta.name)
            where = f"spec.containers[{container.name}].env[{index}].valueFrom"
            problems.append(finding("SMI0706", ref, where, text, severity=Severity.WARNING))
        else:
            environment[variable.name] = value
    words = [expand(word, environment) for word in (*container.command, *(container.args or ()))]
    if words[0] in {"python", "python3"}:
        words[0] = python
    return Invocation(container.name or "app", tuple(words), MappingProxyType(environment), tuple(problems))


def expand(text: str, environment: Mapping[str, str]) -> str:
    """Replace `$(NAME)` by the variable; an unknown name stays as it is and `$$` means one `$`, as in Kubernetes."""

    def value(found: re.Match[str]) -> str:
        return "$" if found[0] == "$$" else environment.get(found[1], found[0])

    return _REFERENCE.sub(value, text)


def field_value(path: str, pod: Pod, form: PodForm) -> str | None:
    """Return what a `fieldPath` of the downward API stands for; None: not known here."""
    own = pod.app_address or pod.address
    match path:
        case "metadata.name":
            return pod.meta.name
        case "metadata.namespace":
            return pod.meta.namespace
        case "spec.serviceAccountName":
            return pod.service_account
        case "status.podIP" | "status.podIPs":
            return own
        case "status.hostIP":
            return "127.0.0.1"
        case "spec.nodeName":
            return "localhost"
        case _:
            found = _LABEL_PATH.fullmatch(path)
            if found is None:
                return None
            written = form.metadata.labels if found[1] == "labels" else form.metadata.annotations
            return (written or {}).get(found[2], "")


def service_variables(pod: Pod, services: Mapping[Key, ServiceForm]) -> Mapping[str, str]:
    """Return the variables that say where Services are, as this Pod dials them."""
    found: dict[str, str] = {}
    everywhere: dict[str, str] = {}
    for key, address in sorted(pod.dial.items()):
        service = services.get(key)
        ports = (service.spec.ports if service else None) or []
        for port in ports:
            everywhere[f"{key[1]}.{key[0]}:{port.port}"] = f"{address}:{port.port}"
        if key[0] == pod.meta.namespace and ports:
            prefix = key[1].upper().replace("-", "_")
            found[f"{prefix}_SERVICE_HOST"] = address
            found[f"{prefix}_SERVICE_PORT"] = str(ports[0].port)
            for port in ports:
                if port.name:
                    found[f"{prefix}_SERVICE_PORT_{port.name.upper().replace('-', '_')}"] = str(port.port)
    found["SMI_SERVICES"] = json.dumps(everywhere, sort_keys=True, separators=(",", ":"))
    return found
