"""The catalogue: the configuration in force, what a new one changes, and what one proxy may see of it.

`Catalogue.apply` turns a published XdsConfig into the changes of each part, at the price of what changed when the
backend names that. `View` answers a stream's questions within the scope of its workload, and is the only place that
decides what a proxy may see: a name outside looks exactly like a name that does not exist (security.md, L1, L3).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from smi_adapter.backends import Part, Resource, XdsConfig
from smi_adapter.delivery.xds.types import SECRET

_NO_CONFIG = XdsConfig({}, {}, {})


class Changed(NamedTuple):
    """What a change means for one name: its new resource, or None if it is gone."""

    type_url: str
    name: str
    resource: Resource | None


class Catalogue:
    """The parts of the configuration in force, and which of them own a name."""

    def __init__(self) -> None:
        self.config = _NO_CONFIG
        # By name alone: a cluster and its endpoints, a listener and its routes share one entry. Most names have one
        # owner, which is then stored bare: 20,000 entries are what the memory of 5,000 Services is about (P6).
        self._owners: dict[str, Part | frozenset[Part]] = {}

    def apply(self, config: XdsConfig) -> dict[Part, list[Changed]]:
        """Put a config in force; return what it changes, by part. Parts that did not change cost nothing if named."""
        previous, self.config = self.config, config
        changed: dict[Part, list[Changed]] = {}
        for part in _candidates(previous, config):
            before, after = previous.parts.get(part, ()), config.parts.get(part, ())
            if before is not after and (changes := _differences(before, after)):
                changed[part] = changes
                self._reown(part, before, after)
        return changed

    def find(self, type_url: str, name: str, scope: frozenset[Part]) -> Resource | None:
        """Return the resource of that name in a scope."""
        owner = self._owners.get(name)
        if owner is None:
            return None
        for part in (owner,) if isinstance(owner, tuple) else sorted(owner):
            if part in scope:
                for resource in self.config.parts[part]:
                    if resource.name == name and resource.type_url == type_url:
                        return resource
        return None

    def all(self, type_url: str, scope: frozenset[Part]) -> Iterator[Resource]:
        """Yield every resource of a type in a scope, in an order that depends on nothing but the names of parts."""
        for part in sorted(scope):
            for resource in self.config.parts.get(part, ()):
                if resource.type_url == type_url:
                    yield resource

    def _reown(self, part: Part, before: Iterable[Resource], after: Iterable[Resource]) -> None:
        names = {resource.name for resource in after}
        for name in {resource.name for resource in before} - names:
            rest = _as_set(self._owners.pop(name)) - {part}
            if rest:
                self._owners[name] = next(iter(rest)) if len(rest) == 1 else rest
        for name in names:
            owner = self._owners.get(name)
            if owner is None:
                self._owners[name] = part
            elif owner != part:
                self._owners[name] = _as_set(owner) | {part}


class View:
    """What one stream may see: the parts in its scope, and the secrets of its identity."""

    def __init__(self, catalogue: Catalogue, scope: frozenset[Part], secrets: Iterable[Resource] = ()) -> None:
        self.scope = scope
        self._catalogue = catalogue
        self._secrets = {resource.name: resource for resource in secrets}

    def find(self, type_url: str, name: str) -> Resource | None:
        """Return the resource of that name, or None if there is none that this proxy may see."""
        if type_url == SECRET and name in self._secrets:
            return self._secrets[name]
        return self._catalogue.find(type_url, name, self.scope)

    def all(self, type_url: str) -> Iterator[Resource]:
        """Yield all that this proxy may see of a type that can be asked for by wildcard."""
        return self._catalogue.all(type_url, self.scope)

    def replace_secrets(self, secrets: Iterable[Resource]) -> list[Changed]:
        """Take the identity's new secrets; return what that changes."""
        before, self._secrets = self._secrets, {resource.name: resource for resource in secrets}
        return _differences(before.values(), self._secrets.values())

    def follow(
        self,
        scope: frozenset[Part],
        changed: Mapping[Part, list[Changed]],
        parts_before: Mapping[Part, tuple[Resource, ...]],
    ) -> list[Changed]:
        """Take the scope of a new config; return what changes within sight, comes into it, and leaves it.

        A part that leaves sight and changes at once is only gone: its new form is not this proxy's to see.
        """
        before, self.scope = self.scope, scope
        changes = [change for part, found in changed.items() if part in scope and part in before for change in found]
        if scope is before or scope == before:
            return changes
        parts = self._catalogue.config.parts
        entered = [_present(resource) for part in sorted(scope - before) for resource in parts.get(part, ())]
        left = [_absent(resource) for part in sorted(before - scope) for resource in parts_before.get(part, ())]
        return changes + left + entered


def _candidates(previous: XdsConfig, config: XdsConfig) -> Iterable[Part]:
    """Return the parts that may differ, sorted; all of them if the backend did not say."""
    if config.changed_parts is None or previous is _NO_CONFIG:
        return sorted({*previous.parts, *config.parts})
    return sorted(config.changed_parts)


def _differences(before: Iterable[Resource], after: Iterable[Resource]) -> list[Changed]:
    old = {(resource.type_url, resource.name): resource.version for resource in before}
    changes = [
        _present(resource)
        for resource in after
        if old.pop((resource.type_url, resource.name), None) != resource.version
    ]
    changes += [Changed(type_url, name, None) for type_url, name in old]
    return changes


def _present(resource: Resource) -> Changed:
    return Changed(resource.type_url, resource.name, resource)


def _absent(resource: Resource) -> Changed:
    return Changed(resource.type_url, resource.name, None)


def _as_set(owner: Part | frozenset[Part]) -> frozenset[Part]:
    return frozenset({owner}) if isinstance(owner, tuple) else owner
