# Every target does its own set-up: it needs a Python >= 3.11 and the package registries.
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
# Where compiled modules may not be kept, each of Airflow's processes compiles all of them again.
unexport PYTHONHOME PYTHONPATH PYTHONDONTWRITEBYTECODE
ifdef PYTHON
export PYTHON
endif

.PHONY: help setup run sync psql test soak test-cluster test-pgbouncer lint screenshots
.PHONY: test-review test-airflow-versions test-bi test-stores test-kubernetes test-day test-matrix
.PHONY: bench lock licences clean launch-run launch-sync launch-psql launch-clean

help:
	@echo 'make run          everything, from installation to the page; Ctrl-C stops it'
	@echo 'make sync         one run; prints what was recorded'
	@echo 'make psql         psql on the audit database, as the reader'
	@echo 'make test         all tests'
	@echo 'make soak         the random tests for hours: SOAK_MINUTES=60 make soak'
	@echo 'make test-cluster a region of 1,000 apps on Celery workers, parts killed (needs redis-server)'
	@echo 'make test-review   a person reviews a change in Airflow, in a real browser'
	@echo 'make test-pgbouncer  the audit behind a real PgBouncer (needs pgbouncer)'
	@echo 'make test-kubernetes  the values for the chart (needs helm; see docs/kubernetes.md)'
	@echo 'make test-airflow-versions  on the lowest and the newest Airflow allowed'
	@echo 'make test-matrix  what depends on it, on other versions: MATRIX="--postgres 16"'
	@echo 'make test-day     96 runs of 10,000 apps in fast motion (needs gcc); APPS=200 is quicker'
	@echo 'make test-bi      import bi/ into a real Superset and dbt, and ask them (installs both)'
	@echo 'make test-stores  checkpoints in S3, GCS and Azure stores on loopback (installs them)'
	@echo 'make bench        measure every figure of docs/performance.md; some: PARTS=record'
	@echo 'make lint         ruff and mypy'
	@echo 'make lock         write requirements.lock again from pyproject.toml'
	@echo 'make screenshots  the pictures in docs/images'
	@echo 'make licences     the licence of every package'
	@echo 'make clean        delete .venv and .local, the recorded data with it (asks)'

# Makes .venv match requirements.lock; takes milliseconds where it does.
setup:
	@sh launch/bootstrap.sh </dev/null

# What these print is the last word; an "Error 1" of make below it would say less. In question mode make
# says nothing of its own, runs only lines that begin with "+", and ends with 1 where another is left.
LAUNCHED := run sync psql clean
ifneq (,$(MAKECMDGOALS))
ifeq (,$(filter-out $(LAUNCHED),$(MAKECMDGOALS))$(findstring n,$(filter-out --%,$(firstword $(MAKEFLAGS)))))
MAKEFLAGS += --question
ALWAYS := +
# The number is this make's.
STATUS := .local/status.$(shell echo $$PPID)
FAILED = { mkdir -p -m 700 .local; echo 1 >$(STATUS); exit 0; }
endif
endif

$(LAUNCHED): %: launch-%
	$(if $(STATUS),@$(shell rm $(STATUS) 2>/dev/null && echo failed))

launch-run launch-sync launch-psql: launch-%:
	$(ALWAYS)@sh launch/bootstrap.sh </dev/null || $(or $(FAILED),exit 1); \
	exec .venv/bin/python -m launch $* --with-parent $(if $(STATUS),--status-to $(STATUS))

# Works without .venv, so it needs no set-up.
launch-clean:
	$(ALWAYS)@sh launch/bootstrap.sh -m launch clean $(if $(STATUS),--status-to $(STATUS) || $(FAILED))

test: setup
	@exec .venv/bin/python -m pytest

# For SOAK_MINUTES (120 where unset); its report is docs/soak-report.md.
soak: setup
	@exec .venv/bin/python -m tests.soak

# An hour on a machine that does nothing else; the peers are installed into .local/bench.
bench: setup
	@exec .venv/bin/python -m benchmarks $(PARTS)

screenshots: setup
	@exec .venv/bin/python -m tests.browser.screenshots

# Minutes of a whole cluster's work.
test-cluster: setup
	@exec .venv/bin/python -m pytest --numprocesses=0 tests/cluster/scale_out.py \
	    tests/cluster/schedulers.py tests/cluster/failover.py \
	    tests/cluster/failover_in_run.py tests/cluster/recovery.py tests/cluster/rollback.py

# Minutes; a browser, as for the page's tests.
test-review: setup
	@exec .venv/bin/python -m pytest --numprocesses=0 tests/cluster/reviews.py

# Seconds; PgBouncer itself has to be there.
test-pgbouncer: setup
	@exec .venv/bin/python -m pytest --numprocesses=0 tests/cluster/pgbouncer.py

# Seconds; helm, kubernetes-validate and the chart have to be there.
test-kubernetes: setup
	@exec .venv/bin/python -m pytest --numprocesses=0 tests/cluster/kubernetes.py

# Into .local/airflow-versions, where a version is not the one of .venv.
test-airflow-versions: setup
	@exec .venv/bin/python -m tests.airflow_versions

# Minutes for each version that MATRIX names; README.md gets its row.
test-matrix: setup
	@exec .venv/bin/python -m tests.matrix $(MATRIX)

# The product's own functions under clocks that are moved; needs a C compiler.
test-day: setup
	@exec .venv/bin/python -m tests.cluster.day --apps $(or $(APPS),10000) $(DAY)

# Superset and dbt go into .local/bi, an environment of their own.
test-bi: setup
	@exec .venv/bin/python -m tests.bi_tools

# Stores of three protocols and their clients go into .local/stores.
test-stores: setup
	@exec .venv/bin/python -m tests.stores

lint: setup
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/lint-imports
	@.venv/bin/mypy plugins dags launch compose simulator tests benchmarks

licences: setup
	@.venv/bin/pip-licenses --from=mixed --with-system --fail-on=UNKNOWN

# One lock for Python 3.11 to 3.14 on Linux (x86_64, arm64) and macOS (arm64), and no host in it.
# `make lock UPGRADE=--upgrade` takes the newest of everything.
lock: setup
	@.venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-header --no-annotate --all-extras --group local --group dev \
	    $(UPGRADE) pyproject.toml --output-file requirements.lock
	@sed -n -e '/^setuptools==/,/[0-9a-f]$$/p' -e '/^uv==/,/[0-9a-f]$$/p' requirements.lock \
	    > launch/bootstrap.lock
	@sh launch/bootstrap.sh
