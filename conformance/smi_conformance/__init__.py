"""A conformance suite for the Service Mesh Interface: real traffic decides, for any implementation.

`catalog.yaml` says what is tested, `cases/` how, against the neutral objects of `model`. A harness (`local`,
`kubernetes`) deploys workloads, applies manifests and sends requests; `runner` plays the cases, `report` writes down
what was seen. Nothing here knows the implementation under test: `target.yaml` holds all that has to be known.
"""

__version__ = "0.1.0"
SPEC_VERSION = "v0.6.0"
