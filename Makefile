# Two commands for a newcomer: `make demo` and `make test`. Both set up .venv first, from hash-checked locks.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: help demo test check soak coverage lock wheel clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

demo: .venv/.installed  ## three synthetic hospitals, the whole way, a report to open
	@$(BIN)/rwe demo

test: .venv/.installed-dev .venv-mitmproxy/.installed  ## all tests but the long forms
	@$(BIN)/pytest -n 2 --dist loadfile --durations 25 -m "not soak"

check: .venv/.installed-dev  ## ruff, mypy, sqlfluff
	@$(BIN)/ruff check src flows tests docs benchmarks
	@$(BIN)/ruff format --check src flows tests docs benchmarks
	@$(BIN)/mypy src
	@$(BIN)/sqlfluff lint --disable-progress-bar sql

soak: .venv/.installed-dev .venv-mitmproxy/.installed  ## the long forms of the tests
	@$(BIN)/pytest -m soak

coverage: .venv/.installed-dev  ## 20 seeds of the demo: how often the interval covers the truth (rewrites docs/coverage.md)
	@$(BIN)/python docs/coverage.py --seeds 20

lock:  ## resolve the dependencies anew (needs uv); no registry address is written
	uv pip compile -q --universal --generate-hashes --no-header --no-annotate --python-version 3.11 \
	  pyproject.toml --group build -o requirements.lock
	uv pip compile -q --universal --generate-hashes --no-header --no-annotate --python-version 3.11 \
	  pyproject.toml --group build --group dev -c requirements.lock -o requirements-dev.lock
	echo 'mitmproxy>=11,<12' | uv pip compile -q --universal --generate-hashes --no-header --no-annotate \
	  --python-version 3.11 - -o requirements-mitmproxy.lock
	echo uv | uv pip compile -q --universal --generate-hashes --no-header --no-annotate --python-version 3.11 \
	  - -o requirements-uv.lock

wheel: .venv/.installed-dev  ## dist/rwe-*.whl with sql/, studies/ and flows/ inside
	@$(BIN)/python -m build --wheel --no-isolation --outdir dist .

clean:  ## forget .venv and caches
	rm -rf .venv .venv-mitmproxy dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/.created:
	@test -n "$(PYTHON)" || { echo "Python 3.11 is needed: install it, or name it with make PYTHON=/path/to/python3.11"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 13) else 1)' || \
	  { echo "$(PYTHON) is not Python 3.11 or 3.12: name one with make PYTHON=/path/to/python3.11"; exit 2; }
	@rm -rf .venv && $(PYTHON) -m venv .venv && touch $@

# uv where there is one; else it is installed into .venv, for pip alone takes ten times as long.
# $(1): the lock; $(2): the environment; $(3): install the project itself, too.
define install
	@UV="$$(command -v uv || true)"; \
	if [ -z "$$UV" ]; then \
	  $(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements-uv.lock && UV="$(BIN)/uv"; \
	fi; \
	echo "Installing $(1) into $(2)"; \
	"$$UV" pip install -q --python $(2)/bin/python --require-hashes -r $(1) \
	  $(if $(3),&& "$$UV" pip install -q --python $(2)/bin/python --no-deps --no-build-isolation -e .)
endef

.venv/.installed: .venv/.created requirements.lock pyproject.toml
	$(call install,requirements.lock,.venv,project)
	@touch $@

.venv/.installed-dev: .venv/.created requirements-dev.lock pyproject.toml
	$(call install,requirements-dev.lock,.venv,project)
	@touch $@ .venv/.installed

# mitmproxy pins what Prefect cannot take, so it lives apart; tests run it as a process.
.venv-mitmproxy/.installed: .venv/.created requirements-mitmproxy.lock
	@rm -rf .venv-mitmproxy && $(PYTHON) -m venv .venv-mitmproxy
	$(call install,requirements-mitmproxy.lock,.venv-mitmproxy)
	@touch $@
