# syntax=docker/dockerfile:1
# The worker's image: CUDA 13.0 (driver 580 or newer), Python 3.12, the exact pins of requirements.lock.
#
#   docker build -t infinitetalk .
#   docker build -t infinitetalk --build-arg BAKE_WEIGHTS=infinitetalk-14b .     with the weights inside, some 105 GB
#
# Layers from what seldom changes to what often does: system, torch with CUDA, the other packages, weights, code.

FROM nvidia/cuda:13.0.2-base-ubuntu24.04 AS system
# Python and its certificates as Ubuntu patches them; what the worker itself runs on is pinned below.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 10001 worker \
    && python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    TRITON_CACHE_DIR=/home/worker/.triton/cache

FROM system AS packages
COPY requirements-torch.lock /tmp/
RUN pip install --require-hashes --only-binary=:all: -r /tmp/requirements-torch.lock
COPY requirements.lock /tmp/
RUN pip install --require-hashes --only-binary=:all: -r /tmp/requirements.lock
COPY requirements-networks.lock /tmp/
# The networks of faces and voices; the wheels also ask for tensorflow and webrtcvad, which nothing here needs.
RUN pip install --no-deps --require-hashes --only-binary=:all: -r /tmp/requirements-networks.lock

# Triton compiles one C file of its own on first use. It is compiled here, against NVIDIA's stub of the driver, so that
# the worker needs no compiler: Triton then finds it in its cache by a hash of the source.
FROM packages AS launcher
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev python3-dev cuda-driver-dev-13-0 \
    && rm -rf /var/lib/apt/lists/* \
    && mkdir /stub \
    && cp /usr/local/cuda-13.0/lib64/stubs/libcuda.so /stub/libcuda.so.1
RUN LD_LIBRARY_PATH=/stub TRITON_LIBCUDA_PATH=/stub \
    python -c "from triton.backends.nvidia.driver import CudaUtils; CudaUtils()"

# Empty unless BAKE_WEIGHTS names a profile. What was fetched stays in the builder's cache, so that a change of the code
# fetches nothing again and gives the same layer.
FROM packages AS weights
ARG BAKE_WEIGHTS=""
WORKDIR /app
COPY infinitetalk infinitetalk
RUN --mount=type=cache,target=/fetched \
    mkdir /models \
    && if [ -n "$BAKE_WEIGHTS" ]; then \
        python -m infinitetalk.cli fetch --profile "$BAKE_WEIGHTS" "/fetched/$BAKE_WEIGHTS" \
        && cp -a "/fetched/$BAKE_WEIGHTS/." /models; \
    fi

FROM packages AS worker
COPY --from=launcher --chown=10001:10001 /home/worker/.triton /home/worker/.triton
# Fails here, and not on the first job, if Triton would need a compiler after all.
RUN --mount=type=bind,from=launcher,source=/stub,target=/stub \
    LD_LIBRARY_PATH=/stub TRITON_LIBCUDA_PATH=/stub \
    python -c "from triton.backends.nvidia.driver import CudaUtils; CudaUtils()" \
    && chown -R 10001:10001 /home/worker
COPY --from=weights /models /models
ARG BAKE_WEIGHTS=""
ENV MODEL_PROFILE=infinitetalk-14b \
    MODELS_DIR=${BAKE_WEIGHTS:+/models}
WORKDIR /app
COPY infinitetalk infinitetalk
COPY handler.py ./
USER 10001
CMD ["python", "handler.py"]
