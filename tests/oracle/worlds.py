"""Random worlds for the oracle: a few namespaces, pods and Services, SMI objects with every quirk, and requests.

A world is drawn as a `Model`, which says what its objects mean, and rendered into manifests under API versions and
forms drawn apart from it: rendering a model twice gives two sets of manifests that must mean the same.

Pods come from a fixed fleet, `pod-0` to `pod-5` with the application ports 8080 and 9090 (HTTP) and 7000 (TCP), so that
one set of real Envoys can serve world after world: a world only says where each pod lies, who it is, how it is
labelled, and what stands in front of it. All draws are small, and most aim at what is there: a world in which nothing
hits is worth nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_args

from hypothesis import strategies as st

from tests.oracle import build as b
from tests.oracle.evaluator import Options, Profile, Request

T = TypeVar("T")
Draw = Callable[[st.SearchStrategy[Any]], Any]
Identities = Sequence[tuple[str, str]]

FLEET = tuple(f"pod-{index}" for index in range(6))
ADDRESSES = tuple(f"127.66.0.{index + 1}" for index in range(6))
NAMESPACES, ACCOUNTS = ("shop", "bank", "yard"), ("alpha", "beta", "gamma")
SERVICE_NAMES = ("web", "web-v1", "web-v2", "api", "db")
VERSIONS: tuple[b.Version, ...] = get_args(b.Version)

# What each Service port may stand for. A container port speaks one protocol, whatever leads to it.
HTTP_TARGETS: Mapping[int, tuple[Any, ...]] = {
    80: (8080, 8080, 9090, "web"),
    8080: (None, 8080, 9090),
    9090: (None, 9090, "admin"),
    81: (8080, "admin"),
}
TCP_TARGETS: Mapping[int, tuple[Any, ...]] = {70: (7000, "tcp-raw"), 7000: (None, 7000)}
POD_PORTS = ({"web": 8080, "admin": 9090, "tcp-raw": 7000}, {"www": 8080, "admin": 9090, "tcp": 7000})

PATH_REGEXES = (
    None, "/", ".*", "/api", "/api", "/api/.*", "/api$", "/api/v[0-9]+$", "/(a|b)", "/admin", "/public/.*", "(?i)/API",
    r"/a\.b", "/(?!api)", "/x)|(/.*", "/a\\Qb", "", "[[:digit:]",
)  # fmt: skip
METHODS: tuple[list[str] | None, ...] = (
    None,
    None,
    [],
    ["*"],
    ["GET"],
    ["GET", "HEAD"],
    ["POST"],
    ["PUT", "*"],
    ["get"],
)
HEADERS: tuple[Any, ...] = (
    *(None,) * 8, {"x-user": "t.*"}, {"X-User": "tom|tim"}, {"user-agent": ".*Firefox.*"}, {"user-agent": "Firefox"},
    {"x-user": "t.*", "x-tier": "gold"}, {"x-tier": "g"}, {"x-tier": ".*"}, {"cookie": "^(.*?;)?(type=insider)(;.*)?$"},
    {"x-user": "(?!t)"}, {"host": ".*"}, {":path": "/.*"}, {":method": "GET"}, {},
)  # fmt: skip
PATHS = (
    "/", "/api", "/api", "/api/", "/api/v1", "/api/v1/x", "/apiary", "/API", "/a", "/a.b", "/axb", "/b/c", "/x/api",
    "/admin", "/public/a", "/public", "/api?x=/admin", "/x?y=/api",
)  # fmt: skip
ATTACKS = (
    "/public/../admin", "/public/%2e%2e/admin", "/public/.%2E/api", "/public\\..\\admin", "/public/..\\admin",
    "/public/..%2fadmin", "/public/..%5Cadmin", "/public/..;/admin", "/public/..;a=b/api", "/public/%2e%2e;/admin",
    "//public/a", "/public//a", "/public/./a", "//api", "/admin%00/public/", "/public/%252e%252e/admin",
    "/public/%c0%ae%c0%ae/admin", "/api#f", "/public/a\xe9", "/%61pi", "/api;x=y", "/x/../api", "/api/../x", "/..",
)  # fmt: skip
SENT_HEADERS = (
    ("x-user", "tom"), ("x-user", "tim"), ("x-user", "ann"), ("X-USER", "tom"), ("x-tier", "gold"), ("x-tier", "g"),
    ("x-tier", ""), ("user-agent", "Mozilla Firefox/9"), ("user-agent", "Firefox"), ("cookie", "a=1;type=insider"),
    ("cookie", "type=insiderx"), ("host", "web.bank"), ("x-forwarded-client-cert", "URI=spiffe://x/ns/shop/sa/alpha"),
)  # fmt: skip
WEIGHTS = (0, 0, 1, 1, 2, 3, 10, 90, 1000, 2**32, "500m", "1500m")
BAD_WEIGHTS = (-1, 1.5, "10")
PORT_NUMBERS = (80, 8080, 8080, 9090, 81, 70, 7000, 7000, 443, 0, 65536 + 80)


@dataclass(frozen=True, slots=True)
class Form:
    """How one object is written, apart from what it says."""

    version: b.Version = "v1alpha4"
    position: b.Position | None = None
    headers: b.HeadersForm = "map"
    quantities: int = 0


Writer = Callable[[Form], b.Object]


@dataclass(frozen=True, slots=True)
class Thing:
    """One object of a world: how to write it, and the forms that it may take."""

    write: Writer
    versions: tuple[b.Version, ...] = ()


@dataclass(frozen=True, slots=True)
class Model:
    """A world before it is written down."""

    things: tuple[Thing, ...]
    requests: tuple[Request, ...]
    options: Options

    def written(self, draw: Draw) -> "World":
        """Write each object in a form of its own, in any order."""
        objects = [thing.write(draw(forms(thing.versions))) for thing in self.things]
        return World(tuple(draw(st.permutations(objects))), self.requests, self.options)


@dataclass(frozen=True, slots=True)
class World:
    """Manifests, and the requests that are to be made in them."""

    objects: tuple[b.Object, ...] = field(repr=False)
    requests: tuple[Request, ...] = field(repr=False)
    options: Options


@dataclass(frozen=True, slots=True)
class Stage:
    """What a world's SMI objects may refer to: pods as (namespace, account, name), and Services' ports."""

    pods: tuple[tuple[str, str, str], ...]
    services: Mapping[tuple[str, str], tuple[int, ...]]

    def namespaces(self) -> list[str]:
        """Name the namespaces in use, the one with most Services first."""
        used = [ns for ns, _ in self.services]
        return sorted({ns for ns, *_ in self.pods} | set(used), key=lambda ns: (-used.count(ns), ns))

    def named(self, ns: str) -> list[str]:
        """Name the Services of a namespace."""
        return [name for where, name in self.services if where == ns]


def forms(versions: Sequence[b.Version]) -> st.SearchStrategy[Form]:
    """Draw a way to write an object, mostly as its version has it."""
    positions: list[b.Position | None] = [None, None, None, "top", "spec"]
    chosen = st.sampled_from(versions or VERSIONS)
    headers: list[b.HeadersForm] = ["map", "list"]
    return st.builds(Form, chosen, st.sampled_from(positions), st.sampled_from(headers), st.integers(0, 2))


@st.composite
def models(draw: Draw, identities: Identities | None = None, addresses: Sequence[str] = ADDRESSES) -> Model:
    """Draw a world; with `identities`, pod N always lies in that namespace under that account."""
    things, pods = _pods(draw, identities, addresses)
    services = _services(draw, [ns for ns, *_ in pods])
    stage = Stage(tuple(pods), {key: tuple(port["port"] for port in ports) for key, (_, ports) in services.items()})
    for (ns, name), (selector, ports) in services.items():
        things.append(_fixed(b.service(name, selector, *ports, ns=ns)))
    roots: set[tuple[str, str]] = set()
    for ns in stage.namespaces():
        things += _routes(draw, ns)
        splits, split_here = _splits(draw, stage, ns)
        things, roots = things + splits, roots | split_here
        things += _bindings(draw, stage, ns)
        things += _targets(draw, stage, ns)
    if _chance(draw, 15):
        things.append(_fixed({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "bystander"}}))
    profile: Profile = draw(st.sampled_from(["spec", "spec", "spec", "osm", "traefik", "nsm"]))
    options = Options(profile, draw(st.sampled_from(["enforce"] * 6 + ["audit", "permissive"])))
    requests = tuple(_request(draw, stage, roots) for _ in range(draw(st.integers(12, 24))))
    return Model(tuple(things), requests, options)


@st.composite
def worlds(draw: Draw, identities: Identities | None = None, addresses: Sequence[str] = ADDRESSES) -> World:
    """Draw a world that is written down: what the comparison with real Envoys takes."""
    model: Model = draw(models(identities, addresses))
    return model.written(draw)


# ------------------------------------------------------------------------------------- pods and Services


def _pods(
    draw: Draw, identities: Identities | None, addresses: Sequence[str]
) -> tuple[list[Thing], list[tuple[str, str, str]]]:
    count = draw(st.sampled_from([2, 3, 4, 5, 5, 6, 6]))
    homes = NAMESPACES[: draw(st.sampled_from([1, 2, 2, 3]))]
    weighted = [*homes[:1] * 4, *homes]
    pods = [
        (*(identities[i] if identities else (_pick(draw, weighted), _pick(draw, ACCOUNTS))), FLEET[i])
        for i in range(count)
    ]
    things: list[Thing] = []
    for ns in sorted({ns for ns, *_ in pods}):
        mode = _pick(draw, [None] * 10 + ["enforce", "audit", "permissive"])
        things += [_fixed(b.namespace(ns, mode)), *(_fixed(b.service_account(name, ns)) for name in ACCOUNTS)]
    for index, (ns, name, pod) in enumerate(pods):
        labels = {"app": _pick(draw, ["a", "a", "a", "b"]), "track": _pick(draw, ["v1", "v2"])}
        ready = _pick(draw, [None] * 4 + [True] * 4 + [False])
        ports = _pick(draw, [POD_PORTS[0], POD_PORTS[0], POD_PORTS[1]])
        written = b.pod(pod, name, labels, ns=ns, ready=ready, ports=ports, address=addresses[index])
        things.append(_fixed(written))
    return things, pods


def _services(draw: Draw, homes: Sequence[str]) -> dict[tuple[str, str], tuple[Any, list[b.Object]]]:
    selectors: list[Any] = [{"app": "a"}, {"app": "a"}, {"track": "v1"}, {"track": "v2"}] * 3
    selectors += [{"app": "a", "track": "v2"}, {"app": "b"}, {"app": "nobody"}, None]
    found: dict[tuple[str, str], tuple[Any, list[b.Object]]] = {}
    for name in draw(st.permutations(SERVICE_NAMES))[: draw(st.integers(2, 5))]:
        found[_pick(draw, homes), name] = (_pick(draw, selectors), _service_ports(draw))
    if _chance(draw, 20):
        found[_pick(draw, homes), _pick(draw, SERVICE_NAMES)] = (_pick(draw, selectors), _service_ports(draw))
    return found


def _service_ports(draw: Draw) -> list[b.Object]:
    numbers = draw(
        st.lists(st.sampled_from([80, 80, 80, 8080, 9090, 81, 70, 7000]), min_size=1, max_size=3, unique=True)
    )
    ports = []
    for number in numbers:
        http = number in HTTP_TARGETS
        to = _pick(draw, (HTTP_TARGETS if http else TCP_TARGETS)[number])
        names = ["http", "web", "grpc"] if http else ["tcp", "mysql", "tls"]
        name: str | None = f"{_pick(draw, names)}-{number}"
        protocol: str | None = None
        if _chance(draw, 25):
            name, protocol = f"port-{number}", _pick(draw, ["http", "http"] if http else ["tcp", "redis"])
        if http and len(numbers) == 1 and _chance(draw, 50):
            name = protocol = None
        ports.append(b.port(number, to, name, protocol))
    return ports


# ------------------------------------------------------------------------------------------- SMI objects


def _routes(draw: Draw, ns: str) -> list[Thing]:
    things: list[Thing] = []
    for name in ("g1", "g2", "g3")[: draw(st.integers(1, 3))]:
        matches = [
            (f"m{i}", _pick(draw, PATH_REGEXES), _pick(draw, METHODS), _pick(draw, HEADERS))
            for i in range(draw(st.integers(1, 3)))
        ]
        things.append(Thing(_group_writer(ns, name, matches), VERSIONS))
    for name in ("r1", "r2")[: draw(st.integers(0, 2))]:
        some = draw(st.lists(st.sampled_from(PORT_NUMBERS), min_size=1, max_size=3, unique=True))
        things.append(Thing(_route_writer(ns, name, _pick(draw, [None, [], some, some])), VERSIONS))
    if _chance(draw, 20):
        things.append(_fixed(b.route("u1", [], kind="UDPRoute", ns=ns)))
    return things


def _group_writer(ns: str, name: str, matches: Sequence[tuple[str, Any, Any, Any]]) -> Writer:
    def write(form: Form) -> b.Object:
        written = [b.match(*match, form=form.headers) for match in matches]
        return b.route_group(name, *written, version=form.version, ns=ns, position=form.position)

    return write


def _route_writer(ns: str, name: str, ports: Sequence[int] | None) -> Writer:
    return lambda form: b.route(name, ports, version=form.version, ns=ns)


def _splits(draw: Draw, stage: Stage, ns: str) -> tuple[list[Thing], set[tuple[str, str]]]:
    services = stage.named(ns)
    if not services:
        return [], set()
    other = next((n for n in stage.namespaces() if n != ns), "elsewhere")
    dated = _chance(draw, 50)
    things, roots = [], set()
    for name in draw(st.lists(st.sampled_from(["s1", "s2", *services]), max_size=3, unique=True)):
        local = _pick(draw, services)
        roots.add((ns, local))
        full = [f"{local}.{ns}", f"{local}.{ns}.svc", f"{local}.{ns}.svc.cluster.local"]
        foreign = [f"{local}.{other}.svc", f"{local}.{other}.svc.cluster.local", "www.example.com", "missing"]
        root = _pick(draw, [local] * 10 + full + foreign)
        backends = []
        for _ in range(draw(st.sampled_from([1, 2, 2, 2, 3, 4]))):
            service = _pick(draw, services * 6 + ["ghost", f"{local}.{other}.svc"])
            backends.append((service, _pick(draw, BAD_WEIGHTS) if _chance(draw, 5) else _pick(draw, WEIGHTS)))
        matches = _pick(draw, [None, None, None, [], ["g1"], ["g1", "g2"], ["ghost"], ["ghost", "g2"]])
        created = _pick(draw, ["2024-05-01T10:00:00Z", "2024-05-01T10:00:05Z"]) if dated else None
        write = _split_writer((ns, name, root, backends, matches, created))
        things.append(Thing(write, ("v1alpha3", "v1alpha4") if matches is not None else VERSIONS))
    return things, roots


def _split_writer(said: tuple[Any, ...]) -> Writer:
    ns, name, root, backends, matches, created = said

    def write(form: Form) -> b.Object:
        # Thousandths have no place after v1alpha1: there the whole split is multiplied, which keeps its ratio.
        milli = any(isinstance(w, str) and w.endswith("m") for _, w in backends)
        weights = [(service, _weight(form, weight, milli=milli)) for service, weight in backends]
        return b.split(name, root, weights, matches=matches, version=form.version, ns=ns, created=created)

    return write


def _weight(form: Form, weight: Any, *, milli: bool) -> Any:
    old = form.version == "v1alpha1"
    if weight in BAD_WEIGHTS:
        return "-1" if old else weight
    if isinstance(weight, str):
        thousandths = int(weight.removesuffix("m"))
        decimal = f"{thousandths // 1000}.{thousandths % 1000:03}"
        return (weight, weight, decimal)[form.quantities] if old else thousandths
    if old:
        return (weight, str(weight), f"{weight * 1000}m")[form.quantities]
    return weight * 1000 if milli else weight


def _bindings(draw: Draw, stage: Stage, ns: str) -> list[Thing]:
    things = []
    for name in ("b1", "b2")[: draw(st.sampled_from([0, 1, 1, 2]))]:
        labels = {"app": _pick(draw, ["a", "b"]), "track": _pick(draw, ["v1", "v2"])}
        selector = _pick(draw, [
            {"matchLabels": labels}, {"matchLabels": {"app": "a"}}, {}, {"matchLabels": {}},
            {"matchExpressions": [{"key": "track", "operator": "In", "values": ["v1"]}]},
            {"matchExpressions": [{"key": "app", "operator": "Exists"}]},
            {"matchLabels": {"app": "a"}, "matchExpressions": [{"key": "track", "operator": "DoesNotExist"}]},
            {"matchExpressions": [{"key": "track", "operator": "NotIn", "values": ["v2"]}]},
        ])  # fmt: skip
        own, other = _pick(draw, ACCOUNTS), _pick(draw, stage.namespaces())
        ids = [f"{_pick(draw, ['', 'spiffe://'])}cluster.local/ns/{_pick(draw, [ns, ns, other])}/sa/{own}"]
        ids += ["other.example/ns/shop/sa/alpha"] if _chance(draw, 30) else []
        offered: list[b.Object] = [
            {"serviceAccount": own}, {"podLabelSelector": selector}, {"podLabelSelector": selector},
            {"spiffeIdentities": ids}, {"serviceAccount": own, "spiffeIdentities": ids},
            {"podLabelSelector": selector, "spiffeIdentities": ids},
            {"serviceAccount": own, "podLabelSelector": selector}, {},
        ]  # fmt: skip
        things.append(_fixed(b.binding(name, _pick(draw, offered), ns=ns)))
    return things


def _targets(draw: Draw, stage: Stage, ns: str) -> list[Thing]:
    accounts = [account for where, account, _ in stage.pods if where == ns]
    if not accounts:
        return []
    things = []
    for name in ("t1", "t2", "t3", "t4")[: draw(st.integers(1, 4))]:
        home = _pick(draw, [None, None, ns])
        destination = b.account(_pick(draw, [*accounts * 4, "nobody"]), home)
        if _chance(draw, 15):
            destination = b.bound(_pick(draw, ["b1", "b2", "ghost"]), home)
        if _chance(draw, 4):
            destination["namespace"] = next((n for n in stage.namespaces() if n != ns), "elsewhere")
        if _chance(draw, 12):
            destination["port"] = _pick(draw, PORT_NUMBERS)
        rules = [_rule(draw) for _ in range(draw(st.sampled_from([1, 1, 2, 2, 3])))]
        sources = [_source(draw, stage, ns) for _ in range(draw(st.sampled_from([1, 2, 2, 3])))]
        things.append(Thing(_target_writer((ns, name, destination, rules, sources)), VERSIONS))
    return things


def _target_writer(said: tuple[Any, ...]) -> Writer:
    ns, name, destination, rules, sources = said
    return lambda form: b.target(name, destination, rules, sources, version=form.version, ns=ns, position=form.position)


def _rule(draw: Draw) -> b.Object:
    if _chance(draw, 30):
        return b.rule(_pick(draw, ["r1", "r1", "r2"]), kind="TCPRoute")
    if _chance(draw, 4):
        return b.rule("u1", kind="UDPRoute")
    names = _pick(draw, [[], [], [], ["m0"], ["m0"], ["m0", "m1"], ["m9"]])
    return b.rule(_pick(draw, ["g1", "g1", "g2", "g2", "g3"]), *names)


def _source(draw: Draw, stage: Stage, ns: str) -> b.Object:
    where, account, _ = _someone(draw, stage)
    if _chance(draw, 20):
        home = _pick(draw, [ns, ns, *stage.namespaces()])
        return b.bound(_pick(draw, ["b1", "b1", "b2"]), None if home == ns else home, _pick(draw, _GROUPS))
    if _chance(draw, 4):
        return b.account(account, where, kind="User")
    return b.account(account, None if where == ns and _chance(draw, 60) else where)


_GROUPS = ("access.smi-spec.io",) * 6 + (None, "example.com")


# ---------------------------------------------------------------------------------------------- requests


def _request(draw: Draw, stage: Stage, roots: AbstractSet[tuple[str, str]]) -> Request:
    source = _someone(draw, stage)
    split = [key for key in stage.services if key in roots]
    to = _pick(draw, split if split and _chance(draw, 60) else list(stage.services))
    port = _pick(draw, stage.services[to])
    if port in TCP_TARGETS:
        return Request(source, to, port, "tcp")
    path = _pick(draw, ATTACKS) if _chance(draw, 20) else _pick(draw, PATHS)
    method = _pick(draw, ["GET"] * 6 + ["POST", "HEAD", "DELETE", "PUT"])
    sent = draw(st.lists(st.sampled_from(SENT_HEADERS), max_size=3)) if _chance(draw, 60) else []
    return Request(source, to, port, "http", method, path, _sendable(sent))


def _sendable(sent: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Repeat only `x-tier`: proxies fold repetitions of well-known headers, each in its own way."""
    kept: list[tuple[str, str]] = []
    for name, value in sent:
        if name == "x-tier" or name.lower() not in {known.lower() for known, _ in kept}:
            kept.append((name, value))
    return tuple(kept)


def _someone(draw: Draw, stage: Stage) -> tuple[str, str, str]:
    """Pick a caller; the first pod is the one that much is granted to and that much is asked by."""
    return stage.pods[0] if _chance(draw, 40) else _pick(draw, stage.pods)


def _fixed(thing: b.Object) -> Thing:
    return Thing(lambda _: thing)


def _pick(draw: Draw, options: Sequence[T]) -> T:
    chosen: T = draw(st.sampled_from(options))
    return chosen


def _chance(draw: Draw, percent: int) -> bool:
    return bool(draw(st.integers(0, 99)) >= 100 - percent)
