# With a GPU (and NVIDIA's container toolkit on the host):
#
#   docker build -t sae .
#   docker run --rm --gpus all --user "$(id -u):$(id -g)" -v "$PWD:/work" sae run demo
#
# torch's wheel for Linux brings its CUDA libraries along, so a plain Python image is enough; gcc is for Triton and numba,
# which compile when they are first used.
FROM python:3.12-slim-bookworm

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

COPY . /src
RUN pip install --no-cache-dir --constraint /src/constraints.txt /src && rm -rf /src

# Any user can run it: what is compiled or downloaded is kept where everybody may write.
ENV HOME=/tmp NUMBA_CACHE_DIR=/tmp/numba TRITON_CACHE_DIR=/tmp/triton MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /work
ENTRYPOINT ["sae"]
CMD ["--help"]
