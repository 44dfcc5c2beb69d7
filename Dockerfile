# An Airflow with im-attr-audit: the versions of requirements.lock, our wheel, the DAG, the page.
# docker-compose.yaml builds it; `--target demo` adds the simulator.
ARG PYTHON_IMAGE=python:3.12-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
# A package index other than the public one, in pip's and uv's form.
ARG PIP_INDEX_URL=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore \
    UV_NO_CACHE=1 UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON=/opt/venv/bin/python
WORKDIR /src
COPY launch/bootstrap.lock ./
RUN python -m venv /opt/uv \
    && /opt/uv/bin/pip install --require-hashes --requirement bootstrap.lock \
    && python -m venv --without-pip /opt/venv

# Only what the product and its extras need, at the lock's versions. A file with another hash is
# refused, and so is a package that the lock does not list.
COPY pyproject.toml requirements.lock ./
RUN if [ -n "$PIP_INDEX_URL" ]; then export UV_DEFAULT_INDEX="$PIP_INDEX_URL"; fi \
    && /opt/uv/bin/uv pip install --requirement pyproject.toml \
        --extra celery --extra fab --extra notify \
        --constraint requirements.lock --build-constraints requirements.lock \
    && /opt/uv/bin/uv pip freeze > installed \
    && while read -r package; do \
        grep -q "^${package}\( \|$\)" requirements.lock \
        || { echo "requirements.lock does not list ${package}" >&2; exit 1; }; done < installed

COPY README.md LICENSE ./
COPY plugins/im_attr_audit plugins/im_attr_audit
COPY sql sql
RUN if [ -n "$PIP_INDEX_URL" ]; then export UV_DEFAULT_INDEX="$PIP_INDEX_URL"; fi \
    && /opt/uv/bin/uv pip install --no-deps --build-constraints requirements.lock . \
    && /opt/uv/bin/uv pip check

FROM ${PYTHON_IMAGE} AS base
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 LANG=C.UTF-8 \
    AIRFLOW_HOME=/opt/airflow AIRFLOW__CORE__LOAD_EXAMPLES=False
# 50000:0, as in Airflow's own image. The folders belong to it, so that volumes on them do.
RUN useradd --uid 50000 --gid 0 --no-create-home --home-dir /opt/airflow airflow \
    && install -d -o airflow -g 0 -m 0775 /opt/airflow /opt/airflow/logs /opt/airflow/demo \
        /opt/airflow/simulator-state /opt/airflow/witness /opt/airflow/metrics \
    && install -d -o airflow -g 0 -m 0700 /opt/airflow/checkpoint-key
COPY --from=build /opt/venv /opt/venv
# The package is installed: only what Airflow itself reads goes into its folders, never both.
COPY dags/im_attr_name_audit.py dags/im_attr_name_review.py /opt/airflow/dags/
COPY plugins/im_attr_audit_plugin.py /opt/airflow/plugins/
COPY compose/health.py compose/init.py /opt/im-attr-audit/
COPY launch/__init__.py launch/api.py /opt/im-attr-audit/launch/
USER 50000:0
WORKDIR /opt/airflow

FROM base AS demo
COPY compose/demo.py /opt/im-attr-audit/
COPY simulator /opt/im-attr-audit/simulator
CMD ["python", "/opt/im-attr-audit/demo.py"]

FROM base AS airflow
CMD ["airflow", "version"]
