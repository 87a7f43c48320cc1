# syntax=docker/dockerfile:1
# Targets: controller (lwplugin serve), cpu (steps), gpu (steps on CUDA), litert (steps for TFLite targets),
# executorch (steps for ExecuTorch targets).
#   docker build --target cpu -t lwplugin:0.1.0-cpu .
# Every image runs as uid 10001 and writes only below /tmp and LWPLUGIN_STORE: a read-only root is fine.
ARG PYTHON=3.11.14-slim-bookworm

FROM python:${PYTHON} AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY lwplugin lwplugin
COPY components components
COPY pipelines pipelines
COPY docs docs
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /dist .

FROM python:${PYTHON} AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib LWPLUGIN_STORE=/store \
    MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=1
RUN groupadd --gid 10001 lwplugin \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin lwplugin \
    && install --directory --owner 10001 --group 10001 /store
COPY --from=build /src/constraints.txt /opt/lwplugin/constraints.txt

FROM base AS cpu
# torch without CUDA: several GB less.
RUN --mount=type=bind,from=build,source=/dist,target=/dist \
    python -m pip install --constraint /opt/lwplugin/constraints.txt \
        --extra-index-url https://download.pytorch.org/whl/cpu \
        "$(echo /dist/lwplugin-*.whl)[onnx,openvino,text,images,parquet,postgres,s3,signing,kubeflow,prefect]" \
    && python -c "import kfp, prefect, onnxruntime, torch, lwplugin.pipelines.kubeflow.compile"
USER 10001:10001
ENTRYPOINT ["lwplugin"]

FROM base AS controller
RUN --mount=type=bind,from=build,source=/dist,target=/dist \
    python -m pip install --constraint /opt/lwplugin/constraints.txt \
        --extra-index-url https://download.pytorch.org/whl/cpu \
        "$(echo /dist/lwplugin-*.whl)[onnx,text,images,parquet,postgres,s3,serve,signing,traces]"
USER 10001:10001
EXPOSE 8080
ENTRYPOINT ["lwplugin"]
CMD ["serve", "/etc/lwplugin/serve.yaml"]

FROM base AS gpu
# PyPI's torch brings its own CUDA libraries; the node brings the driver.
RUN --mount=type=bind,from=build,source=/dist,target=/dist \
    python -m pip install --constraint /opt/lwplugin/constraints.txt \
        "$(echo /dist/lwplugin-*.whl)[onnx,openvino,text,images,parquet,postgres,s3,signing,kubeflow,prefect]"
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
ENTRYPOINT ["lwplugin"]

FROM cpu AS litert
USER 0:0
# The converter pins packages that Prefect cannot live with: an environment of its own.
ENV LWPLUGIN_TOOLCHAINS=/opt/lwplugin/toolchains
RUN --mount=type=bind,from=build,source=/dist,target=/dist \
    python -m pip install --constraint /opt/lwplugin/constraints.txt "$(echo /dist/lwplugin-*.whl)[tflite]" \
    && PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu lwplugin toolchain install litert
USER 10001:10001

FROM cpu AS executorch
USER 0:0
ENV LWPLUGIN_TOOLCHAINS=/opt/lwplugin/toolchains
RUN PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu lwplugin toolchain install executorch
USER 10001:10001
