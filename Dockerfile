# Two images from one file: `trainer` runs in the pods, `kctl` (slim, no torch) in CI and GitOps pipelines.
# Our code is the last layer of both, so that a new version of it moves a few hundred kilobytes. See images/README.md.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS base
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 kctl \
    && useradd --uid 10001 --gid 10001 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin kctl
ENV PATH=/opt/venv/bin:/opt/app/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /tmp

# ---- packages: a virtual environment without our code, the same versions for both images
FROM base AS kctl-packages
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt \
    PIP_CONSTRAINT=/build/constraints.txt \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    DS_BUILD_OPS=0
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY pyproject.toml images/constraints.txt ./
# /opt/app is where our code will be: the .pth file puts it on the path of this environment.
RUN python3 -m venv /opt/venv \
    && echo /opt/app > "$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/app.pth" \
    && python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' \
        > kctl.txt \
    && pip install --requirement kctl.txt \
    && pip freeze > /opt/venv/freeze.txt

FROM kctl-packages AS trainer-packages
RUN python -c 'import tomllib; extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]; print(*extras["trainer"], *extras["wandb"], sep="\n")' \
        > trainer.txt \
    && pip install --requirement trainer.txt \
    && pip freeze > /opt/venv/freeze.txt

# ---- our code, built once
FROM kctl-packages AS code
RUN python3 -m venv /opt/build && /opt/build/bin/pip install hatchling
COPY pyproject.toml README.md LICENSE ./
COPY configs configs
COPY kctl kctl
COPY trainer trainer
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir wheel . \
    && pip install --no-deps --no-index --target /opt/app wheel/*.whl

# ---- slim: kctl alone
FROM base AS kctl
COPY --from=kctl-packages /opt/venv /opt/venv
USER 10001:10001
ENTRYPOINT ["/usr/bin/tini", "--", "kctl"]
CMD ["--help"]
COPY --from=code /opt/app /opt/app

# ---- what runs in the pods. The compiler stays: Triton and inductor build kernels at run time.
FROM base AS trainer
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev python3-dev \
    && rm -rf /var/lib/apt/lists/*
COPY --from=trainer-packages /opt/venv /opt/venv
USER 10001:10001
ENTRYPOINT ["/usr/bin/tini", "--"]
CMD ["python", "-m", "trainer.launch", "--help"]
COPY --from=code /opt/app /opt/app
