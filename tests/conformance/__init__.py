"""The adapter in front of the conformance suite: its driver, its target file and its expected readings."""
