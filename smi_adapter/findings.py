"""Findings: all that we ever tell a user.

Whatever is unsupported, wrong or surprising in a user's input becomes a `Finding` with a stable code, the object,
the field and the next step; the same value is shown by the CLI, the log, an object's status and an Event. Nothing
is dropped silently. This module is the lowest layer: everything may import it, it imports nothing of ours.

`CODES` is the only table of codes. A code never changes its meaning and is never used again; the page
`docs/findings.md` is generated from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType


class Severity(Enum):
    """How bad a finding is: an ERROR grants or routes nothing, a WARNING does less than asked, INFO only tells."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, slots=True, order=True)
class Ref:
    """Names one Kubernetes object; `group` is the API group ("" for core), never a version."""

    kind: str
    namespace: str
    name: str
    group: str = ""

    def __str__(self) -> str:
        """Return `Kind namespace/name` (or `Kind name` where there is no namespace)."""
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Code:
    """What one stable code means: its name, its usual severity, the cause and the usual mend, in words."""

    code: str
    name: str
    severity: Severity
    cause: str
    mend: str
    rule: str = ""  # row of docs/semantics (S5, R1, ...), where one decides


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to tell a user about one field of one object."""

    code: str
    severity: Severity
    subject: Ref
    field: str
    message: str
    hint: str

    @property
    def name(self) -> str:
        """Return the code's name, such as `BackendNotFound`."""
        return CODES[self.code].name


def finding(code: str, subject: Ref, field: str, message: str, *, severity: Severity | None = None) -> Finding:
    """Make a finding; severity and hint come from the code's row unless the case says otherwise (S5 at weight 0)."""
    row = CODES[code]
    return Finding(code, severity or row.severity, subject, field, message, row.mend)


def printable(text: str) -> str:
    """Return user text with control characters escaped, so that no object can forge a line of a log or terminal."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def by_severity_then_object(item: Finding) -> tuple[int, Ref, str, str, str]:
    """Sort key: errors first, then by object and code, so that output never depends on the order of input."""
    return (list(Severity).index(item.severity), item.subject, item.code, item.field, item.message)


_E, _W, _I = Severity.ERROR, Severity.WARNING, Severity.INFO

_ROWS: tuple[Code, ...] = (
    Code(
        "SMI0101",
        "RootNotFound",
        _E,
        "The Service that a TrafficSplit names as its root does not exist.",
        "Create the Service, or name an existing one of the split's namespace in spec.service.",
        "S18",
    ),
    Code(
        "SMI0102",
        "BackendNotFound",
        _W,
        "A backend of a TrafficSplit names a Service that does not exist; its share goes to the other backends.",
        "Create the Service or remove the backend.",
        "S5",
    ),
    Code(
        "SMI0103",
        "PortMismatch",
        _W,
        "A backend Service lacks a port number of the root; it is left out for that port.",
        "Give the backend Service the same port number as the root.",
        "S7",
    ),
    Code(
        "SMI0104",
        "AllWeightsZero",
        _W,
        "No backend has a weight above zero; requests to the root get 503.",
        "Give at least one backend a weight above zero, or delete the split.",
        "S4",
    ),
    Code(
        "SMI0105",
        "InvalidWeight",
        _E,
        "A weight is not a whole number of zero or more (v1alpha1: not a quantity); that backend is excluded.",
        "Write the weight as a whole number, such as 10.",
        "S2",
    ),
    Code(
        "SMI0106",
        "DuplicateBackend",
        _W,
        "A Service stands more than once in the backends; the weights are summed.",
        "Keep one entry for each Service.",
        "S9",
    ),
    Code(
        "SMI0107",
        "SelfReference",
        _I,
        "The root is also a backend; its share goes to the root Service's own endpoints.",
        "Nothing to do, if that is what you want.",
        "S10",
    ),
    Code(
        "SMI0108",
        "BackendIsRoot",
        _W,
        "A backend is the root of another split; that other split is not followed.",
        "Name the leaf Services as backends.",
        "S11",
    ),
    Code(
        "SMI0109",
        "Conflicted",
        _W,
        "Another TrafficSplit on the same root comes first; this one has no effect.",
        "Merge the two splits, or give them disjoint matches.",
        "S14",
    ),
    Code(
        "SMI0110",
        "MatchGroupNotFound",
        _W,
        "An HTTPRouteGroup named in a split's matches does not exist or holds no usable match; it matches nothing.",
        "Create the HTTPRouteGroup in the split's namespace.",
        "S16",
    ),
    Code(
        "SMI0111",
        "CrossNamespace",
        _E,
        "The root or a backend names a Service of another namespace.",
        "Root, backends and split must be in one namespace.",
        "S19",
    ),
    Code(
        "SMI0112",
        "HostNotResolved",
        _E,
        "spec.service is a host name, and no Service has the split's own name.",
        "Name the root Service, or give the split the name of its Service.",
        "S18",
    ),
    Code(
        "SMI0113",
        "NoReadyEndpoints",
        _W,
        "A backend with a share has no ready endpoint; its share gets 503.",
        "Scale the workload up or look at its readiness.",
        "S6",
    ),
    Code(
        "SMI0114",
        "LastGoodKept",
        _W,
        "An edit made the split invalid; the last good weights stay in force until the controller restarts.",
        "Correct the object.",
        "S24",
    ),
    Code(
        "SMI0115",
        "BackendWouldDeny",
        _W,
        "A caller may call one backend of a split but not another.",
        "Grant the sources on every backend of the split.",
        "S23",
    ),
    Code(
        "SMI0201",
        "InvalidRegex",
        _E,
        "A regular expression is not valid RE2 or too large; the match that holds it grants and matches nothing.",
        "Write it in RE2 syntax; no look-around, no back-references.",
        "R4",
    ),
    Code(
        "SMI0202",
        "OpenEndedRegex",
        _W,
        "A pathRegex in an access rule is anchored only at its start, so it also grants longer paths.",
        "End it with $ or (/.*)?$ if only this path is meant.",
        "R1",
    ),
    Code(
        "SMI0203",
        "ReservedHeader",
        _E,
        "A header filter names a pseudo-header or Host, which cannot be filtered.",
        "Use pathRegex or methods; the host cannot be matched.",
        "R7",
    ),
    Code(
        "SMI0204",
        "PortIsContainerPort",
        _W,
        "A port of a rule is no port of a Service that selects the destination; it is read as the container port.",
        "Write the Service's port number.",
        "R10",
    ),
    Code("SMI0205", "PortOutOfRange", _E, "A port is outside 1-65535.", "Write a port from 1 to 65535.", "R11"),
    Code("SMI0206", "TooLarge", _E, "An object or file is over a size limit.", "Split it into several."),
    Code(
        "SMI0207",
        "MeaningDiffers",
        _I,
        "The object means something else here than in the mesh it comes from.",
        "Read the migration page of that mesh, or select its profile.",
    ),
    Code(
        "SMI0301",
        "RuleNotResolved",
        _W,
        "A rule of a TrafficTarget names a group or match that does not exist; the rule grants nothing.",
        "Create the HTTPRouteGroup or correct the match's name.",
        "T7",
    ),
    Code(
        "SMI0302",
        "TCPRouteNotResolved",
        _W,
        "A TCPRoute named in a TrafficTarget does not exist; as it restricts "
        "the target's ports, the target grants nothing.",
        "Create the TCPRoute or remove the rule.",
        "T8",
    ),
    Code(
        "SMI0303",
        "GrantsNothing",
        _E,
        "A TrafficTarget grants nothing as written.",
        "Give it a destination, at least one rule and at least one source.",
        "T9",
    ),
    Code(
        "SMI0304",
        "ForeignDestination",
        _E,
        "A TrafficTarget names a destination in another namespace; it grants nothing.",
        "Move the target into its destination's namespace.",
        "T11",
    ),
    Code(
        "SMI0305",
        "UnknownKind",
        _E,
        "A source, destination or rule is of a kind that SMI does not know; it grants nothing.",
        "Use ServiceAccount or IdentityBinding, and HTTPRouteGroup, TCPRoute or UDPRoute.",
        "T16",
    ),
    Code(
        "SMI0306",
        "L4OpensHTTP",
        _W,
        "A target with only TCPRoute rules opens an HTTP port: every request on it is allowed.",
        "Add an HTTPRouteGroup rule if only some requests are meant.",
        "T4",
    ),
    Code(
        "SMI0307",
        "HTTPRuleOnTCPPort",
        _W,
        "A target with HTTPRouteGroup rules names a port that is not HTTP; HTTP "
        "rules cannot match there, so it stays closed.",
        "Use a target with only a TCPRoute for that port.",
        "T5",
    ),
    Code(
        "SMI0308",
        "NoSuchServiceAccount",
        _W,
        "No ServiceAccount of that name exists.",
        "Create it or correct the name.",
    ),
    Code(
        "SMI0309",
        "WouldDeny",
        _I,
        "Audit mode: a request was allowed that enforce mode would deny.",
        "Grant it with a TrafficTarget before you enforce.",
        "T1",
    ),
    Code(
        "SMI0310",
        "NotEnforced",
        _I,
        "Access is not enforced in a namespace: its mode is audit or permissive.",
        "Set the access mode to enforce when every caller that you want has its TrafficTarget.",
        "T1",
    ),
    Code(
        "SMI0401",
        "BindingNotFound",
        _W,
        "An IdentityBinding does not exist or names nobody.",
        "Create it with at least one scheme.",
        "B5",
    ),
    Code(
        "SMI0402",
        "AmbiguousBinding",
        _E,
        "An IdentityBinding has both serviceAccount and podLabelSelector; it names nobody.",
        "Keep one of the two.",
        "B1",
    ),
    Code(
        "SMI0403",
        "ForeignIdentity",
        _E,
        "A spiffeIdentities entry belongs to another namespace or an unknown trust domain; it is refused.",
        "Bind only identities of the binding's namespace or of a federated domain.",
        "B4",
    ),
    Code(
        "SMI0404",
        "DelegatedBinding",
        _I,
        "A source is another namespace's IdentityBinding: whoever may edit that namespace decides who is let in.",
        "Nothing to do, if that is what you want.",
    ),
    Code(
        "SMI0501",
        "VersionNotServed",
        _E,
        "The object's apiVersion is not one that we know; it is left out.",
        "Use one of the versions v1alpha1 to v1alpha4 (UDPRoute and IdentityBinding: v1alpha4).",
    ),
    Code(
        "SMI0502",
        "ForeignCRD",
        _W,
        "The SMI CRD in the cluster is not ours and has no status; only Events tell.",
        "Install our CRDs if you want status.",
    ),
    Code(
        "SMI0503",
        "NameClash",
        _I,
        "Another API group has a resource of the same name.",
        "Use the full name, such as tcproutes.specs.smi-spec.io.",
    ),
    Code(
        "SMI0504",
        "LossyVersion",
        _W,
        "The target version cannot say all of the object; what is lost stands in an annotation.",
        "Use a newer version of the kind.",
    ),
    Code(
        "SMI0505",
        "Undecodable",
        _E,
        "The object, or the part of it that the field names, does not fit its schema; it is left out.",
        "Correct the field that the message names.",
    ),
    Code(
        "SMI0506",
        "UnknownKindOfObject",
        _I,
        "The file holds an object of a kind that we do not read.",
        "Correct a misspelled apiVersion or kind; of another kind there is nothing to do: it is ignored.",
    ),
    Code(
        "SMI0507",
        "UnreadableFile",
        _E,
        "A file could not be read as YAML; what it held before stays in force.",
        "Correct the file.",
    ),
    Code(
        "SMI0508",
        "DuplicateObject",
        _E,
        "Two documents define the same object; the first one (by file name and position) counts.",
        "Keep one of them.",
    ),
    Code(
        "SMI0509",
        "FieldPruned",
        _E,
        "A field that was applied is not in the stored object: the CRD in the cluster does not list it, or it was "
        "taken out by `kubectl edit`, `kubectl patch` or a program, none of which change what stands as last applied. "
        "What it restricts would be open, so the part of the object that it stood in is left out; if it restricts "
        "nothing, this is a warning.",
        "Run `smi-adapter crds apply`, then `kubectl apply` the object again; without the field, if it was taken out "
        "on purpose.",
    ),
    Code(
        "SMI0601",
        "Unsupported",
        _W,
        "The selected backend cannot do what the object asks for.",
        "Use another backend, or leave that out.",
        "U1",
    ),
    Code(
        "SMI0602",
        "PartiallyTranslated",
        _W,
        "The selected backend can do it only in part.",
        "Read the message; docs/backends.md lists what each backend can do.",
    ),
    Code(
        "SMI0603",
        "ConfigRejected",
        _E,
        "A proxy refused the configuration made from this object.",
        "Report this as a bug with `smi-adapter translate`; the last good configuration stays, access is closed.",
    ),
    Code(
        "SMI0604",
        "NotProgrammed",
        _W,
        "A proxy has not acknowledged its configuration for 30 s.",
        "Look at that proxy's log and load.",
    ),
    Code(
        "SMI0605",
        "ForeignOwner",
        _W,
        "Another writer owns a field of a generated object.",
        "Delete that object or stop the other writer.",
    ),
    Code(
        "SMI0606",
        "InternalError",
        _E,
        "Our own code failed on this object; its last good routes stay, its new access is denied.",
        "Report it as a bug, with the object.",
    ),
    Code(
        "SMI0701",
        "NoSidecar",
        _W,
        "A workload has no proxy; it is reached in plain text and enforces nothing.",
        "Start it with a proxy.",
    ),
    Code(
        "SMI0702",
        "ExternalNameRefused",
        _E,
        "A Service of type ExternalName is not routed.",
        "Use a Service with a selector.",
    ),
    Code(
        "SMI0703",
        "EndpointRefused",
        _E,
        "An endpoint has an address that may not be routed to.",
        "Remove it from the EndpointSlice.",
    ),
    Code("SMI0704", "NamespaceNotWatched", _I, "The namespace is not watched.", "Label it."),
    Code("SMI0705", "ProxyTooOld", _W, "The proxy's Envoy version has known security holes.", "Update it."),
    Code(
        "SMI0706",
        "ProcessFailed",
        _E,
        "A local process of the workload ended or could not be started.",
        "Look at its log file; the message names it.",
    ),
    Code("SMI0801", "MetricsStoreDown", _E, "The metrics store does not answer.", "Look at Prometheus."),
    Code(
        "SMI0901",
        "CertificateNearExpiry",
        _W,
        "A certificate is past two thirds of its life and was not renewed.",
        "Look at the controller's log.",
    ),
    Code("SMI0902", "ClockSkew", _W, "Clocks differ by more than 60 s.", "Run NTP."),
    Code("SMI0903", "StaleCache", _W, "The controller's view of the API is old.", "Look at the API server."),
    Code(
        "SMI0904",
        "NoAccess",
        _E,
        "The API server does not let the controller read a kind; it is not ready, or serves what it read before.",
        "Give the controller's service account the rights get, list and watch for it.",
    ),
    Code(
        "SMI0906",
        "CertificateSecretUnusable",
        _W,
        "The Secret with the webhooks' certificates is gone or damaged; what is in memory is used.",
        "Empty the Secret's data, and it is filled again.",
    ),
    Code(
        "SMI0907",
        "WebhookNotTrusted",
        _W,
        "A webhook configuration could not be given our certificate authority; the API server cannot call us.",
        "Read the message; webhooks fail open, so nothing is held up.",
    ),
)

CODES: Mapping[str, Code] = MappingProxyType({row.code: row for row in _ROWS})

RESERVED = frozenset(
    {
        "SMI0207",
        "SMI0309",
        "SMI0503",
        "SMI0704",
        "SMI0801",
        "SMI0902",
    }
)
"""Codes that have their meaning already, but that nothing reports yet."""
