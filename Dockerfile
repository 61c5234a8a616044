# syntax=docker/dockerfile:1

# Two images: `production`, the default, runs every process (api, relay, worker, beat, flower, migrate); `development`
# adds devtools, of which the mock gateway and the sample data are used here. The base is pinned by digest; Dependabot proposes the next one, with the
# security updates of Debian and Python.

ARG PYTHON_IMAGE=python:3.11-slim-trixie@sha256:9534e5a8e315485d4061ed659af0fd78a284c015f9b73661b41d6bab25604534

FROM ${PYTHON_IMAGE} AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore

RUN python -m venv --without-pip /opt/venv

# Every wheel is pinned by its hash, and nothing is built here: a compiler is neither needed nor present.
# hadolint ignore=DL3042
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=requirements-image.txt,target=/tmp/requirements-image.txt \
    python -m pip --python /opt/venv/bin/python install \
        --no-deps --only-binary :all: --require-hashes --requirement /tmp/requirements-image.txt

# -P: what lies in the current folder shadows nothing of ours.
RUN printf '#!/bin/sh\nexec /opt/venv/bin/python -P -m app "$@"\n' >/opt/venv/bin/articurated \
    && chmod 0755 /opt/venv/bin/articurated

WORKDIR /app
COPY alembic.ini LICENSE ./
COPY alembic/ alembic/
COPY templates/ templates/
COPY app/ app/
COPY devtools/ /devtools/

# Compiled now: the running container cannot write it down.
RUN /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash app alembic /devtools


FROM ${PYTHON_IMAGE} AS base

ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="ArtiCurated" \
      org.opencontainers.image.description="Order and returns system of record" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

RUN groupadd --system --gid 10001 articurated \
    && useradd --system --uid 10001 --gid 10001 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin articurated \
    && install --directory --owner 10001 --group 10001 --mode 0750 /app/storage

COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app

# Writable are /tmp and /app/storage, and no more is needed: the root may be read-only.
# Production unless the one who runs it says otherwise: secrets that are published with the source open nothing here.
ENV ENVIRONMENT=production \
    PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    STORAGE_PATH=/app/storage \
    ARTICURATED_DATA_DIR=/tmp/articurated \
    BEAT_SCHEDULE_FILE=/tmp/beat-schedule \
    READY_FILE=/tmp/ready

WORKDIR /app
USER 10001:10001
EXPOSE 8000

# For the API. The other processes renew READY_FILE while they work: docker-compose.yml has their checks.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --start-interval=1s --retries=3 \
    CMD ["python", "-I", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8000, timeout=4); c.request('GET', '/api/v1/health/live'); raise SystemExit(c.getresponse().status != 200)"]

# SIGTERM ends the API within 8 seconds, a worker within 25: let `docker stop` wait for longer than that.
CMD ["articurated", "api", "--host", "0.0.0.0", "--port", "8000"]


FROM base AS development

COPY --from=build /devtools /app/devtools


FROM base AS production
