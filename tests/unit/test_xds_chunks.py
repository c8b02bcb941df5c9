"""Spliced bytes are what the protobuf library makes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from smi_adapter.backends import Resource
from smi_adapter.delivery.xds import chunks
from smi_adapter.envoy_api import message

Response = message("envoy.service.discovery.v3.DeltaDiscoveryResponse")
Discovered = message("envoy.service.discovery.v3.Resource")
Any_ = message("google.protobuf.Any")

texts = st.text(min_size=1, max_size=200)  # the library leaves empty fields out
resources = st.builds(Resource, texts, texts, st.binary(min_size=1, max_size=40_000), texts)


@given(texts, texts, st.lists(resources, max_size=4), st.lists(texts, max_size=4))
def test_a_spliced_response_parses_to_what_the_library_would_build(
    type_url: str, nonce: str, some: list[Resource], removed: list[str]
) -> None:
    built = Response(
        type_url=type_url,
        nonce=nonce,
        removed_resources=removed,
        resources=[
            Discovered(name=r.name, version=r.version, resource=Any_(type_url=r.type_url, value=r.body)) for r in some
        ],
    )
    spliced = chunks.response(type_url, nonce, some, removed)
    assert Response.FromString(spliced) == built
    assert len(spliced) == built.ByteSize()
    assert sum(map(chunks.size, some)) == len(spliced) - len(chunks.response(type_url, nonce, (), removed))
