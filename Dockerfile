# Two images from one file: `trainer` runs in the pods, `kctl` (slim, no torch) in CI and GitOps pipelines.
# Our code is the last layer of both, so that a new version of it moves a few hundred kilobytes. See images/README.md.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS base
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 tini \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
    && groupadd --gid 10001 kctl \
    && useradd --uid 10001 --gid 10001 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin kctl
ENV PATH=/opt/venv/bin:/opt/app/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /tmp

# ---- what to install. Apart and without a date, so that other lines of pyproject.toml do not make the packages anew.
FROM base AS requirements
WORKDIR /requirements
COPY pyproject.toml images/constraints.txt images/pip.conf ./
RUN python3 -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
        lists = project["optional-dependencies"] | {"kctl": project["dependencies"]}; \
        [open(name + ".txt", "w").write("\n".join(lists[name])) for name in ("kctl", "trainer", "wandb", "tensorboard", "flash")]' \
    && rm pyproject.toml \
    && touch --date=@0 ./*

# ---- packages of both images, without our code. The builder's own pip.conf, where one is given, stays in no layer.
FROM base AS packages
COPY --from=requirements /requirements /opt/venv/requirements
# /opt/app is where our code will be: the .pth file puts it on the path of this environment.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
    && python3 -m venv /opt/venv \
    && mv /opt/venv/requirements/pip.conf /opt/venv/ \
    && echo /opt/app > "$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/app.pth" \
    && pip install --requirement /opt/venv/requirements/kctl.txt \
    && pip freeze > /opt/venv/freeze.txt

# ---- our code, built once
FROM packages AS code
WORKDIR /build
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m venv /opt/build && cp /opt/venv/pip.conf /opt/build/ && /opt/build/bin/pip install hatchling
COPY pyproject.toml README.md LICENSE ./
COPY configs configs
COPY k8s k8s
COPY kctl kctl
COPY trainer trainer
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir wheel . \
    && pip install --no-deps --no-index --target /opt/app wheel/*.whl

# ---- slim: kctl alone
FROM base AS kctl
COPY --from=packages /opt/venv /opt/venv
USER 10001:10001
ENTRYPOINT ["/usr/bin/tini", "--", "kctl"]
CMD ["--help"]
COPY --from=code /opt/app /opt/app

# ---- what runs in the pods. The compiler stays: Triton, inductor and DeepSpeed build kernels at run time.
FROM packages AS trainer
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ gcc python3-dev \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    cd /opt/venv/requirements \
    && DS_BUILD_OPS=0 pip install --requirement trainer.txt --requirement wandb.txt --requirement tensorboard.txt \
        --requirement flash.txt \
    && pip check \
    && pip freeze > /opt/venv/freeze.txt
# flash-attn 2: a wheel's name below images/, or flash-attn==VERSION where BASE has nvcc. Its package holds an old copy of
# flash-attn 4's folder, which is laid over it again.
ARG FLASH_ATTN=
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=bind,source=images,target=/images \
    if [ -n "$FLASH_ATTN" ]; then \
        case $FLASH_ATTN in \
            *.whl) wanted=/images/$FLASH_ATTN ;; \
            *) wanted=$FLASH_ATTN; command -v nvcc \
                || { echo "error: FLASH_ATTN=$FLASH_ATTN is built with nvcc, which BASE lacks: give a wheel below images/"; exit 1; } ;; \
        esac \
        && FLASH_ATTENTION_FORCE_BUILD=TRUE pip install --no-deps --no-build-isolation "$wanted" \
        && pip install --no-deps --force-reinstall --requirement /opt/venv/requirements/flash.txt \
        && pip check \
        && pip freeze > /opt/venv/freeze.txt; \
    fi
USER 10001:10001
ENTRYPOINT ["/usr/bin/tini", "--"]
CMD ["python", "-m", "trainer.launch", "--help"]
COPY --from=code /opt/app /opt/app
