"""Broken variants of this adapter, which the conformance suite has to find: a suite that passes them proves nothing."""
