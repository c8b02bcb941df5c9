"""Webhooks: what the API server asks us before it stores an object, or to show it in another version.

`validate` and `convert` are pure functions from the bytes of a review to the bytes of the answer, `server` is the HTTPS
in front of them, `certificates` and `keeper` see to it that the API server trusts it. None of it is needed for the mesh
to work: the validating webhook fails open, and conversion is opt-in.
"""
