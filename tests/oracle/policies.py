"""The SMI objects of random worlds: what they say is thrown here, how they are written is thrown apart.

Each world has a theme. Without one, most requests would end at the first of many quirks, and the rows that need two
things at once (an order of splits, a header AND a path, a port AND a match) would hardly ever decide anything.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from tests.oracle import build as b
from tests.oracle.drawing import Dice
from tests.oracle.evaluator import Profile

VERSIONS: tuple[b.Version, ...] = get_args(b.Version)
ACCOUNTS = ("alpha", "beta", "gamma")
Pod = tuple[str, str, str]
Said = tuple[str, Any, Any, Any]  # a match as it is meant: name, path, methods, headers
Groups = Mapping[str, Sequence[Said]]

# Each pattern with paths that it matches or just misses: requests are aimed with them.
PATH_REGEXES: Mapping[str | None, tuple[str, ...]] = {
    "/api": ("/api", "/api/v1", "/apiary", "/x/api", "/api?x=/b", "/API", "//api", "/x/../api"),
    "/api$": ("/api", "/api/", "/api?x=1", "/./api"),
    "/api/.*": ("/api/", "/api/v1", "/api", "/api/../x"),
    "/api/v[0-9]+$": ("/api/v12", "/api/v1/x", "/api/vx"),
    "/(a|b)": ("/a", "/b/c", "/c", "/abc"),
    "/admin": ("/admin", "/public/../admin", "/public/%2e%2e;/admin", "/public/..;/admin", "/p/%2e%2e/admin"),
    "/public/.*": ("/public/a", "/public", "/public/../admin", "/public/%2e%2e;/admin", "/public//a"),
    r"/a\.b": ("/a.b", "/axb"),
    "(?i)/API": ("/api", "/API", "/x"),
    "/": ("/", "/x"),
    "/(?!api)": ("/b", "/api"),
    "/x)|(/.*": ("/x", "/y"),
    "/a\\Qb": ("/ab", "/aQb"),
    "": ("/", "/x"),
    "[[:digit:]": ("/1", "/"),
    None: ("/", "/x"),
    ".*": ("/", "/x"),
}
LIKELY_REGEXES = ("/api", "/api", "/api", "/(a|b)", "/public/.*")
METHODS: tuple[list[str], ...] = (["GET"], ["GET", "HEAD"], ["POST"], ["PUT", "*"], ["*"], [], ["get"])
HEADERS: tuple[Mapping[str, str], ...] = (
    *({"user-agent": "Firefox"}, {"x-tier": "g"}, {"x-user": "o"}) * 2, {"x-user": "t.*"}, {"X-User": "tom|tim"},
    {"x-user": "t.*", "x-tier": "gold"}, {"x-tier": "g", "x-user": "a"}, {"x-tier": ".*"},
    {"user-agent": ".*Firefox.*"}, {"cookie": "^(.*?;)?(type=insider)(;.*)?$"}, {"x-user": "(?!t)"}, {"host": ".*"},
    {":path": "/.*"}, {":method": "GET"}, {},
)  # fmt: skip
HEADER_VALUES: Mapping[str, tuple[str, ...]] = {
    "x-user": ("tom", "tim", "ann", "o", "a"),
    "x-tier": ("gold", "g", "", "golden"),
    "user-agent": ("Mozilla Firefox/9", "Firefox", "curl"),
    "cookie": ("a=1;type=insider", "type=insider", "type=insiderx"),
    "host": ("web.bank",),
}
WEIGHTS = (1, 1, 2, 3, 10, 90, 0, 0, 1000, 2**32, "500m", "500m", "1500m")
BAD_WEIGHTS = (-1, 1.5, "10")
OTHER_PORTS = (80, 8080, 8080, 9090, 81, 70, 7000, 7000, 443, 0, 65536 + 80)
GROUPS = ("access.smi-spec.io",) * 6 + (None, "example.com")


@dataclass(frozen=True, slots=True)
class Theme:
    """What a world is about: numbers of objects to pick from, per cent of the quirks, and what is left open."""

    name: str
    splits: tuple[int, ...] = (0,)
    one_root: int = 0
    opened: bool = False  # access is no subject: everybody may do everything
    everybody: bool = False  # identities are no subject: each target is from everybody to all of one account
    rules: tuple[int, ...] = (1, 1, 1, 2, 2, 3)
    matches: tuple[int, ...] = (1, 2, 2, 3)
    any_path: int = 40
    headers: int = 40
    methods: int = 60
    tcp_rules: int = 30
    bound: int = 15
    port: int = 8
    foreign: int = 4
    binding_counts: tuple[int, ...] = (0, 1, 1, 2)
    homes: tuple[int, ...] = (1, 2, 2, 3)
    bare: bool = False  # paths and headers are no subject: requests differ in who calls what
    profiles: tuple[Profile, ...] = ("spec", "spec", "spec", "osm", "traefik", "nsm")


THEMES = (
    Theme("mixed", splits=(0, 1, 2, 3)),
    Theme("traffic", splits=(1, 2, 2, 3, 3), one_root=75, opened=True, any_path=55, headers=30, methods=25),
    Theme(
        "routes", everybody=True, any_path=12, headers=40, methods=35, tcp_rules=2, bound=0, port=0, foreign=0,
        binding_counts=(0,), rules=(1, 1, 2), matches=(1, 1, 2), profiles=("spec", "osm", "traefik", "nsm"),
    ),
    Theme(
        "ports", everybody=True, any_path=95, headers=0, methods=0, tcp_rules=60, bound=0, port=25, binding_counts=(0,),
        bare=True, rules=(1, 2, 2, 3), profiles=("spec", "nsm", "osm", "traefik"),
    ),
    Theme(
        "identities", any_path=100, headers=0, methods=0, tcp_rules=10, bound=65, port=0, foreign=8,
        binding_counts=(2,), bare=True, homes=(2, 2, 3),
    ),
)  # fmt: skip


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
    """One object of a world: how to write it, and the versions that can say it."""

    write: Writer
    versions: tuple[b.Version, ...] = VERSIONS


def fixed(thing: b.Object) -> Thing:
    """Make a Thing of an object that is written in one way only."""
    return Thing(lambda _: thing)


@dataclass(frozen=True, slots=True)
class Stage:
    """What a world's SMI objects may refer to: pods as (namespace, account, name), Services' ports, and the theme."""

    theme: Theme
    pods: tuple[Pod, ...]
    services: Mapping[tuple[str, str], tuple[int, ...]]

    def namespaces(self) -> list[str]:
        """Name the namespaces in use, the one with most Services first."""
        used = [ns for ns, _ in self.services]
        return sorted({ns for ns, *_ in self.pods} | set(used), key=lambda ns: (-used.count(ns), ns))

    def other(self, ns: str) -> str:
        """Name a namespace that is not this one."""
        return next((name for name in self.namespaces() if name != ns), "elsewhere")

    def numbers(self, ns: str) -> list[int]:
        """List port numbers to write into policies: those of the namespace's Services mostly, and others."""
        return [number for (where, _), ports in self.services.items() if where == ns for number in ports] * 2 + list(
            OTHER_PORTS
        )

    def everybody(self) -> list[b.Object]:
        """List every pod's account as a source."""
        return [b.account(account, where) for where, account in sorted({(ns, account) for ns, account, _ in self.pods})]

    def someone(self, dice: Dice) -> Pod:
        """Pick a caller; the first pod is the one that much is granted to and that much is asked by."""
        return self.pods[0] if dice.chance(40) else dice.pick(self.pods)


def form(dice: Dice, versions: Sequence[b.Version]) -> Form:
    """Throw a way to write an object, mostly as its version has it."""
    positions: list[b.Position | None] = [None, None, None, "top", "spec"]
    headers: list[b.HeadersForm] = ["map", "list"]
    return Form(dice.pick(versions), dice.pick(positions), dice.pick(headers), dice.pick(range(3)))


# ----------------------------------------------------------------------------------------------- routes


def routes(dice: Dice, stage: Stage, ns: str) -> tuple[list[Thing], Groups]:
    """Throw route groups g1 to g3, TCPRoutes r1 and r2, sometimes a UDPRoute; tell the groups, to aim at."""
    things: list[Thing] = []
    groups: dict[str, list[Said]] = {}
    for name in ("g1", "g2", "g3")[: dice.count(2, 1, 3)]:
        matches = [_match(dice, stage.theme, f"m{number}") for number in range(dice.count(*stage.theme.matches))]
        things.append(Thing(_group_writer(ns, name, matches)))
        groups[name] = matches
    for name in ("r1", "r2")[: dice.count(2, 2, 1, 0)]:
        listed = dice.some(sorted(set(stage.numbers(ns))), 1, 4)
        things.append(Thing(_route_writer(ns, name, dice.pick([None, [], listed, listed, listed]))))
    if dice.chance(20):
        things.append(fixed(b.route("u1", [], kind="UDPRoute", ns=ns)))
    return things, groups


def _match(dice: Dice, theme: Theme, name: str) -> Said:
    path = dice.pick([None, ".*"]) if dice.chance(theme.any_path) else dice.pick((*LIKELY_REGEXES, *PATH_REGEXES))
    methods = dice.pick(METHODS) if dice.chance(theme.methods) else None
    headers = dice.pick(HEADERS) if dice.chance(theme.headers) else None
    return name, path, methods, headers


def _group_writer(ns: str, name: str, matches: Sequence[Said]) -> Writer:
    def write(form: Form) -> b.Object:
        written = [b.match(*match, form=form.headers) for match in matches]
        return b.route_group(name, *written, version=form.version, ns=ns, position=form.position)

    return write


def _route_writer(ns: str, name: str, ports: Sequence[int] | None) -> Writer:
    return lambda form: b.route(name, ports, version=form.version, ns=ns)


# ----------------------------------------------------------------------------------------------- splits


def splits(dice: Dice, stage: Stage, ns: str) -> tuple[list[Thing], set[tuple[str, str]]]:
    """Throw splits, and say which Services they are about."""
    services = [name for where, name in stage.services if where == ns]
    things: list[Thing] = []
    roots: set[tuple[str, str]] = set()
    if not services:
        return things, roots
    favourite, dated = dice.pick(services), dice.chance(70)
    wanted = dice.pick(stage.theme.splits)
    for name in dice.some(list(dict.fromkeys(["s1", "s2", "s3", *services])), wanted, wanted):
        local = favourite if dice.chance(stage.theme.one_root) else dice.pick(services)
        root = local if dice.chance(65) else _host(dice, local, ns, stage.other(ns))
        roots.add((ns, name if root.startswith("www") and name in services else local))
        several = dice.count(2, 2, 2, 1, 3, 4) if dice.chance(96) else 0
        backends = [_backend(dice, services, stage.other(ns)) for _ in range(several)]
        matches = dice.pick([None, None, None, ["g1"], ["g1"], ["g2"], ["g1", "g2"], ["ghost", "g2"], ["ghost"], []])
        created = dice.pick(["2024-05-01T10:00:00Z", "2024-05-01T10:00:05Z"]) if dated else None
        writer = _split_writer((ns, name, root, backends, matches, created))
        things.append(Thing(writer, VERSIONS if matches is None else ("v1alpha3", "v1alpha4")))
    return things, roots


def _host(dice: Dice, local: str, ns: str, other: str) -> str:
    own = [f"{local}.{ns}", f"{local}.{ns}.svc", f"{local}.{ns}.svc.cluster.local"]
    foreign = [f"{local}.{other}.svc", f"{local}.{other}.svc.cluster.local", "missing"]
    return dice.pick(own * 2 + foreign + ["www.example.com"] * 4)


def _backend(dice: Dice, services: Sequence[str], other: str) -> tuple[str, Any]:
    service = dice.pick(services)
    if dice.chance(10):
        service = dice.pick(["ghost", f"{service}.{other}.svc"])
    return service, dice.pick(BAD_WEIGHTS) if dice.chance(6) else dice.pick(WEIGHTS)


def _split_writer(said: tuple[Any, ...]) -> Writer:
    ns, name, root, backends, matches, created = said

    def write(form: Form) -> b.Object:
        # Thousandths have no place after v1alpha1: there the whole split is multiplied, which keeps its ratio.
        milli = any(isinstance(w, str) and w.endswith("m") for _, w in backends)
        weights = [(service, _weight(form, weight, i, milli=milli)) for i, (service, weight) in enumerate(backends)]
        return b.split(name, root, weights, matches=matches, version=form.version, ns=ns, created=created)

    return write


def _weight(form: Form, weight: Any, index: int, *, milli: bool) -> Any:
    """Write a weight as its version has it; the quantities of one v1alpha1 split are written in several ways."""
    old, way = form.version == "v1alpha1", (form.quantities + index) % 3
    if weight in BAD_WEIGHTS:
        return "-1" if old else weight
    if isinstance(weight, str):
        thousandths = int(weight.removesuffix("m"))
        decimal = f"{thousandths // 1000}.{thousandths % 1000:03}"
        return (weight, weight, decimal)[way] if old else thousandths
    if old:
        return (weight, str(weight), f"{weight * 1000}m")[way]
    return weight * 1000 if milli else weight


# ----------------------------------------------------------------------------------------------- access


def bindings(dice: Dice, stage: Stage, ns: str) -> list[Thing]:
    """Throw IdentityBindings b1 and b2 of all schemes, right and wrong."""
    things = []
    for name in ("b1", "b2")[: dice.pick(stage.theme.binding_counts)]:
        track = dice.pick(["v1", "v2"])
        selector = dice.pick([
            {"matchLabels": {"track": track}}, {"matchLabels": {"app": "a"}},
            {"matchLabels": {"app": "a", "track": track}},
            {"matchExpressions": [{"key": "track", "operator": "In", "values": [track]}]},
            {"matchExpressions": [{"key": "track", "operator": "NotIn", "values": [track]}]},
            {"matchExpressions": [{"key": "app", "operator": "Exists"}]},
            {"matchLabels": {"app": "a"}, "matchExpressions": [{"key": "track", "operator": "DoesNotExist"}]},
            {}, {"matchLabels": {}},
        ])  # fmt: skip
        own = dice.pick([account for where, account, _ in stage.pods if where == ns] or ACCOUNTS)
        someone = stage.someone(dice)
        ids = [f"{dice.pick(['', 'spiffe://'])}cluster.local/ns/{dice.pick([ns, ns, someone[0]])}/sa/{someone[1]}"]
        ids += ["other.example/ns/shop/sa/alpha"] if dice.chance(30) else []
        offered: list[b.Object] = [
            {"serviceAccount": own}, {"podLabelSelector": selector}, {"podLabelSelector": selector},
            {"podLabelSelector": selector}, {"spiffeIdentities": ids}, {"spiffeIdentities": ids},
            {"serviceAccount": own, "spiffeIdentities": ids}, {"podLabelSelector": selector, "spiffeIdentities": ids},
            {"serviceAccount": own, "podLabelSelector": selector}, {},
        ]  # fmt: skip
        things.append(fixed(b.binding(name, dice.pick(offered), ns=ns)))
    return things


def targets(dice: Dice, stage: Stage, ns: str, groups: Groups) -> list[Thing]:
    """Throw TrafficTargets; where the theme is about routing, one pair of them opens the whole namespace."""
    accounts = [account for where, account, _ in stage.pods if where == ns]
    if not accounts:
        return []
    if stage.theme.opened and dice.chance(80):
        return _open_to_all(stage, ns, accounts)
    things = []
    every = sorted(set(accounts))
    more = [dice.pick([*accounts * 5, "nobody"]) for _ in range(dice.count(0, 1, 1, 2))]
    for number, account in enumerate([*dice.some(every, len(every) - dice.chance(15), len(every)), *more]):
        name, home = f"t{number}", dice.pick([None, None, ns])
        destination = b.account(account, home)
        if dice.chance(stage.theme.bound // 2):
            destination = b.bound(dice.pick(["b1", "b2", "b1", "b2", "ghost"]), home)
        if dice.chance(stage.theme.foreign):
            destination["namespace"] = stage.other(ns)
        if dice.chance(stage.theme.port):
            destination["port"] = dice.pick(stage.numbers(ns))
        rules = [_rule(dice, stage.theme, groups) for _ in range(dice.count(*stage.theme.rules))]
        sources = [_source(dice, stage, ns) for _ in range(dice.count(1, 2, 2, 3))]
        if stage.theme.everybody:
            sources = stage.everybody()
        things.append(Thing(_target_writer((ns, name, destination, rules, sources))))
    return things


def _open_to_all(stage: Stage, ns: str, accounts: Sequence[str]) -> list[Thing]:
    things = [fixed(b.route_group("open", b.match("all"), ns=ns)), fixed(b.route("open", ns=ns))]
    for account in sorted(set(accounts)):
        for kind in ("HTTPRouteGroup", "TCPRoute"):
            said = ns, f"{kind.lower()}-{account}", b.account(account), [b.rule("open", kind=kind)], stage.everybody()
            things.append(Thing(_target_writer(said)))
    return things


def _target_writer(said: tuple[Any, ...]) -> Writer:
    ns, name, destination, rules, sources = said
    return lambda form: b.target(name, destination, rules, sources, version=form.version, ns=ns, position=form.position)


def _rule(dice: Dice, theme: Theme, groups: Groups) -> b.Object:
    if dice.chance(theme.tcp_rules):
        return b.rule(dice.pick(["r1", "r1", "r1", "r2", "ghost"]), kind="TCPRoute")
    if dice.chance(4):
        return b.rule("u1", kind="UDPRoute")
    if dice.chance(6):
        return b.rule("ghost")
    group = dice.pick(list(groups))
    names = dice.some([name for name, *_ in groups[group]], 1, 2) if dice.chance(50) else []
    return b.rule(group, *names, *(["m9"] if dice.chance(5) else []))


def _source(dice: Dice, stage: Stage, ns: str) -> b.Object:
    where, account, _ = stage.someone(dice)
    if dice.chance(stage.theme.bound):
        home = dice.pick([ns, ns, ns, *stage.namespaces()])
        return b.bound(dice.pick(["b1", "b2"]), None if home == ns else home, dice.pick(GROUPS))
    if dice.chance(4):
        return b.account(account, where, kind="User")
    return b.account(account, None if where == ns and dice.chance(60) else where)
