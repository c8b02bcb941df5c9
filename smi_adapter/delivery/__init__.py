"""Delivery: how rendered configuration reaches proxies.

The type that a backend returns chooses it, and the core owns it: a backend does no I/O.
"""
