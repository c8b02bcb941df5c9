# The controller's image. Not checked against a registry: no registry was reachable where this was written, so the base
# image is named by tag, and whoever publishes an image replaces that by a digest:
#   docker build --build-arg BASE=python:3.13-slim-bookworm@sha256:... -t REGISTRY/smi-adapter:0.1.0 .
ARG BASE=python:3.13-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
RUN python -m venv /opt/smi-adapter
# Exact versions by their hashes; wheels only, so that no code of a package runs while it is installed.
COPY requirements/runtime.lock requirements/
RUN /opt/smi-adapter/bin/pip install --no-cache-dir --require-hashes --only-binary=:all: -r requirements/runtime.lock
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY smi_adapter smi_adapter
COPY schemas schemas
COPY examples/bookstore examples/bookstore
RUN python -m venv /tmp/builder \
    && /tmp/builder/bin/pip install --no-cache-dir 'hatchling>=1.27,<2' \
    && /tmp/builder/bin/python -m hatchling build -t wheel -d /tmp/dist \
    && /opt/smi-adapter/bin/pip install --no-cache-dir --no-deps --no-index /tmp/dist/*.whl \
    && /opt/smi-adapter/bin/pip uninstall --yes pip

FROM ${BASE}
LABEL org.opencontainers.image.title=smi-adapter \
      org.opencontainers.image.licenses=Apache-2.0
COPY --from=build /opt/smi-adapter /opt/smi-adapter
ENV PATH=/opt/smi-adapter/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
# A number, so that Kubernetes can see that it is not root; the chart runs it with a read-only root file system.
USER 65532:65532
WORKDIR /tmp
ENTRYPOINT ["smi-adapter"]
CMD ["run"]
