"""Random worlds for the oracle: a few namespaces, pods and Services, SMI objects with every quirk, and requests.

A world is thrown as a `Model`, which says what its objects mean, and written down as manifests under API versions and
in forms that are thrown apart from it: writing a model twice gives two sets of manifests that must mean the same.
Everything follows from one seed, so `python -m tests.oracle SEED` shows a world again.

Pods come from a fixed fleet, `pod-0` to `pod-5` with the application ports 8080 and 9090 (HTTP) and 7000 (TCP), so that
one set of real Envoys can serve world after world: a world only says where each pod lies, who it is, how it is
labelled, and what stands in front of it. All throws are small, and most aim at what is there: a world in which nothing
hits is worth nothing.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from tests.oracle import build as b
from tests.oracle import policies
from tests.oracle.drawing import Dice
from tests.oracle.evaluator import Mode, Options, Request
from tests.oracle.policies import ACCOUNTS, THEMES, Pod, Said, Stage, Theme, Thing, fixed, form

Identities = Sequence[tuple[str, str]]
SaidIn = Mapping[str, Sequence[Said]]  # the matches of each namespace

FLEET = tuple(f"pod-{index}" for index in range(6))
ADDRESSES = tuple(f"127.66.0.{index + 1}" for index in range(6))
NAMESPACES = ("shop", "bank", "yard")
SERVICE_NAMES = ("web", "web-v1", "web-v2", "api", "db")

LAX_THEMES = frozenset({"mixed", "traffic"})  # where access is not enforced everywhere

# What each Service port may stand for. A container port speaks one protocol, whatever leads to it.
HTTP_TARGETS: Mapping[int, tuple[Any, ...]] = {
    80: (8080, 8080, 9090, "web"),
    8080: (None, 8080, 9090),
    9090: (None, 9090, "admin"),
    81: (8080, "admin"),
}
TCP_TARGETS: Mapping[int, tuple[Any, ...]] = {70: (7000, "tcp-raw"), 7000: (None, 7000)}
POD_PORTS = ({"web": 8080, "admin": 9090, "tcp-raw": 7000}, {"www": 8080, "admin": 9090, "tcp": 7000})

ATTACKS = (
    "/public/../admin", "/public/%2e%2e/admin", "/public/.%2E/api", "/public\\..\\admin", "/public/..\\admin",
    "/public/..%2fadmin", "/public/..%5Cadmin", "/public/..;/admin", "/public/..;a=b/api", "/public/%2e%2e;/admin",
    "//public/a", "/public//a", "/public/./a", "//api", "/admin%00/public/", "/public/%252e%252e/admin",
    "/public/%c0%ae%c0%ae/admin", "/api#f", "/public/a\xe9", "/%61pi", "/api;x=y", "/x/../api", "/api/../x", "/..",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class World:
    """Manifests, and the requests that are to be made in them; the seed alone says it all again."""

    seed: int
    theme: str
    options: Options
    objects: tuple[b.Object, ...] = field(repr=False)
    requests: tuple[Request, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Model:
    """A world before it is written down."""

    seed: int
    theme: Theme
    options: Options
    things: tuple[Thing, ...]
    requests: tuple[Request, ...]

    def written(self, seed: int) -> World:
        """Write each object in a form of its own, in any order."""
        dice = Dice(seed)
        objects = dice.some([thing.write(form(dice, thing.versions)) for thing in self.things], 10**9, 10**9)
        return World(self.seed, self.theme.name, self.options, tuple(objects), self.requests)


def model(seed: int, identities: Identities | None = None, addresses: Sequence[str] = ADDRESSES) -> Model:
    """Throw a world; with `identities`, pod N always lies in that namespace under that account."""
    dice = Dice(seed)
    theme = dice.pick(THEMES)
    things, pods = _pods(dice, theme, identities, addresses)
    services = _services(dice, theme, [ns for ns, *_ in pods])
    numbers = {key: tuple(port["port"] for port in ports) for key, (_, ports) in services.items()}
    stage = Stage(theme, tuple(pods), numbers)
    for (ns, name), (selector, ports) in services.items():
        things.append(fixed(b.service(name, selector, *ports, ns=ns)))
    roots: set[tuple[str, str]] = set()
    said: dict[str, list[Said]] = {}
    for ns in stage.namespaces():
        routes, groups = policies.routes(dice, stage, ns)
        splits, about = policies.splits(dice, stage, ns)
        things, roots = [*things, *routes, *splits], roots | about
        said[ns] = [match for matches in groups.values() for match in matches]
        things += policies.bindings(dice, stage, ns)
        things += policies.targets(dice, stage, ns, groups)
    if dice.chance(15):
        things.append(fixed({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "bystander"}}))
    modes: tuple[Mode, ...] = ("enforce", "enforce", "enforce", "audit", "permissive")
    options = Options(dice.pick(theme.profiles), dice.pick(modes) if theme.name in LAX_THEMES else "enforce")
    return Model(seed, theme, options, tuple(things), tuple(_requests(dice, stage, roots, said)))


def world(seed: int, identities: Identities | None = None, addresses: Sequence[str] = ADDRESSES) -> World:
    """Throw a world and write it down: what the comparison with real Envoys takes."""
    return model(seed, identities, addresses).written(seed + 1)


SEEDS = st.integers(0, 2**32 - 1)


def models() -> st.SearchStrategy[Model]:
    """Draw a world that is yet to be written down."""
    return SEEDS.map(model)


def worlds(identities: Identities | None = None, addresses: Sequence[str] = ADDRESSES) -> st.SearchStrategy[World]:
    """Draw a world that is written down."""
    return SEEDS.map(lambda seed: world(seed, identities, addresses))


# ------------------------------------------------------------------------------------- pods and Services


def _pods(
    dice: Dice, theme: Theme, identities: Identities | None, addresses: Sequence[str]
) -> tuple[list[Thing], list[Pod]]:
    homes = NAMESPACES[: dice.pick(theme.homes)]
    weighted = [*homes[:1] * 4, *homes]
    pods: list[Pod] = []
    for index in range(dice.count(5, 6, 4, 5, 6, 3, 2)):
        ns, account = identities[index] if identities else (dice.pick(weighted), dice.pick(ACCOUNTS))
        pods.append((ns, account, FLEET[index]))
    things: list[Thing] = []
    for ns in sorted({ns for ns, *_ in pods}):
        mode = dice.pick((None,) * 4 + ("enforce", "audit", "permissive")) if theme.name in LAX_THEMES else None
        things += [fixed(b.namespace(ns, mode)), *(fixed(b.service_account(name, ns)) for name in ACCOUNTS)]
    for index, (ns, name, pod) in enumerate(pods):
        labels = {"app": dice.pick("aaab"), "track": dice.pick(("v1", "v2"))}
        ready = dice.pick((None,) * 5 + (True,) * 4 + (False,))
        ports = dice.pick((POD_PORTS[0], POD_PORTS[0], POD_PORTS[1]))
        things.append(fixed(b.pod(pod, name, labels, ns=ns, ready=ready, ports=ports, address=addresses[index])))
    return things, pods


def _services(dice: Dice, theme: Theme, homes: Sequence[str]) -> dict[tuple[str, str], tuple[Any, list[b.Object]]]:
    selectors: list[Any] = [{"app": "a"}, {"app": "a"}, {"track": "v1"}, {"track": "v2"}] * 6
    selectors += [{"app": "a", "track": "v2"}, {"app": "b"}, {"app": "nobody"}, None]
    homes = [max(homes, key=list(homes).count)] * (9 if theme.opened else 4) + [*homes]
    keys = [(dice.pick(homes), name) for name in dice.some(SERVICE_NAMES, 3 if theme.opened else 2, 5)]
    if dice.chance(20):
        keys.append((dice.pick(homes), dice.pick(SERVICE_NAMES)))
    common = _numbers(dice)
    return {key: (dice.pick(selectors), _service_ports(dice, theme, common)) for key in keys}


def _numbers(dice: Dice) -> list[int]:
    return list(dict.fromkeys(dice.some((80, 80, 80, 8080, 9090, 81, 70, 7000), 1, 3)))


def _service_ports(dice: Dice, theme: Theme, common: Sequence[int]) -> list[b.Object]:
    """Draw a Service's ports; those of a split's Services mostly fit each other, since S7 drops what does not."""
    numbers = common if theme.opened and dice.chance(75) else _numbers(dice)
    ports = []
    for number in numbers:
        http = number in HTTP_TARGETS
        to = dice.pick((HTTP_TARGETS if http else TCP_TARGETS)[number])
        name: str | None = f"{dice.pick(('http', 'web', 'grpc') if http else ('tcp', 'mysql', 'tls'))}-{number}"
        protocol: str | None = None
        if dice.chance(25):
            name, protocol = f"port-{number}", "http" if http else dice.pick(("tcp", "redis"))
        if http and len(numbers) == 1 and dice.chance(50):
            name = protocol = None
        ports.append(b.port(number, to, name, protocol))
    return ports


# ---------------------------------------------------------------------------------------------- requests


def _requests(dice: Dice, stage: Stage, roots: AbstractSet[tuple[str, str]], said: SaidIn) -> list[Request]:
    """Throw requests that differ from each other, most of them to what is split and near to what is matched."""
    found: dict[Request, None] = {}
    wanted = dice.count(8, 10, 12, 16)
    for _ in range(3 * wanted):
        if len(found) == wanted:
            break
        found[_request(dice, stage, roots, said)] = None
    return list(found)


def _request(dice: Dice, stage: Stage, roots: AbstractSet[tuple[str, str]], said: SaidIn) -> Request:
    source = stage.someone(dice)
    split = [key for key in stage.services if key in roots]
    to = dice.pick(split if split and dice.chance(60) else list(stage.services))
    port = dice.pick(stage.services[to])
    if port in TCP_TARGETS or stage.theme.bare:
        return Request(source, to, port, "tcp" if port in TCP_TARGETS else "http")
    _, path, methods, headers = dice.pick(said[to[0]])
    target = dice.pick(ATTACKS) if dice.chance(12) else dice.pick(policies.PATH_REGEXES[path])
    method = dice.pick([name for name in methods or () if name.isupper()] or ["GET"])
    if dice.chance(30):
        method = dice.pick(("POST", "HEAD", "DELETE", "PUT", "GET"))
    return Request(source, to, port, "http", method, target, _headers(dice, headers or {}))


def _headers(dice: Dice, wanted: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Send most of what the match asks for, with values that fit or nearly fit, and something else."""
    known = policies.HEADER_VALUES
    names = [name for name in wanted if name.lower() in known and dice.chance(85)]
    names += dice.some(list(known), 0, 1 if names else 2)
    keys = dict.fromkeys(name.lower() for name in names)
    headers = [(name.title() if dice.chance(15) else name, dice.pick(known[name])) for name in keys]
    # Only x-tier comes twice: proxies fold repetitions of well-known headers, each in its own way.
    headers += [("x-tier", dice.pick(known["x-tier"]))] if "x-tier" in keys and dice.chance(25) else []
    headers += [("x-forwarded-client-cert", "URI=spiffe://x/ns/shop/sa/alpha")] if dice.chance(3) else []
    return tuple(headers)
