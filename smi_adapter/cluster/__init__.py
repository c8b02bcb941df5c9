"""The cluster: all input from and output to a Kubernetes API server.

`client` is the one place that knows the library (kubernetes-asyncio, for HTTP and login only). On it stand the reading
side (`discovery`, `reflector`, `store`, and `source`, which gives the core the same batches that a directory gives)
and the writing side (status, Events, generated objects, the Lease). Nothing above this package speaks HTTP to
Kubernetes, so another client library would touch one module.
"""
