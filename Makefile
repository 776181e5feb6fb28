# What a person types here. Everything runs from .venv, which `make setup` builds from the hash-pinned lock.
PY := .venv/bin/python
STAMP := .venv/.installed

.PHONY: help setup demo test crash fuzz check format lock dist audit sbom docs bench clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## make .venv with the command .venv/bin/bulkissue

$(STAMP): requirements.lock pyproject.toml
	python3 -m venv --clear .venv
	$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

demo: setup  ## run the main job on sample_inputs/ against the stand-in service
	@bash docs/demo.sh

test: setup  ## pass the tests, with branch coverage
	$(PY) -m coverage erase
	$(PY) -m coverage run -m pytest -n 2
	$(PY) -m coverage combine --quiet
	$(PY) -m coverage report --fail-under=90

crash: setup  ## a long soak of random kills and faults, its seed printed
	SOAK_KILLS=400 $(PY) -m pytest tests/crash -q -s

fuzz: setup  ## damage files of every kind, FUZZ of each, and read them
	FUZZ=$(or $(FUZZ),5000) $(PY) -m pytest tests/property/test_readers_property.py -q -n 2

bench: setup  ## measure the program beside what people use instead; QUICK=1, PACE=1, HUGE=1, ONLY="bulk plan"
	$(PY) benchmarks/bench.py $(if $(QUICK),--quick) $(if $(PACE),--pace) $(if $(HUGE),--huge) $(if $(ONLY),--only $(ONLY))

check: setup  ## format, lint, strict types, layers, unused code, spelling, pages not stale
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	.venv/bin/lint-imports --no-cache
	$(PY) -m vulture
	.venv/bin/codespell
	$(PY) docs/generate.py --check

format: setup  ## let the formatter and the linter's safe fixes have their way
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

docs: setup  ## write the generated parts of the pages, and the job file's JSON Schema
	$(PY) docs/generate.py

lock:  ## resolve the dependencies again (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	    --extra xlsx --extra notify --extra metrics --group dev --output-file requirements.lock pyproject.toml
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	    --extra xlsx --extra notify --extra metrics --constraint requirements.lock \
	    --output-file packaging/requirements.lock pyproject.toml

# Tools of a release: not pinned, as an audit with last year's tool finds last year's faults.
TOOLS := .venv-tools/bin
$(TOOLS)/twine:
	python3 -m venv --clear .venv-tools
	$(TOOLS)/python -m pip install --quiet --disable-pip-version-check twine pip-audit cyclonedx-bom

dist: setup $(TOOLS)/twine  ## build wheel and sdist into dist/, and check them
	@tag=$$(git describe --tags --exact-match 2>/dev/null); version=v$$($(PY) -c 'import bulkissue; print(bulkissue.__version__)'); \
	    test -z "$$tag" -o "$$tag" = "$$version" || { echo "the tag is $$tag, bulkissue.__version__ says $$version"; exit 1; }
	rm -rf dist && mkdir dist
	$(PY) -c "from flit_core import buildapi; buildapi.build_sdist('dist'); buildapi.build_wheel('dist')"
	$(TOOLS)/twine check --strict dist/*

audit: $(TOOLS)/twine  ## look for known faults in what is installed with the program
	$(TOOLS)/pip-audit --require-hashes --disable-pip --requirement packaging/requirements.lock

sbom: $(TOOLS)/twine  ## write what is installed with the program into dist/sbom.json (CycloneDX)
	mkdir -p dist
	$(TOOLS)/cyclonedx-py requirements packaging/requirements.lock --pyproject pyproject.toml --output-reproducible \
	    --output-file dist/sbom.json

clean:  ## remove what setup, demo, tests and benchmarks made
	rm -rf .venv .venv-tools dist demo .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis \
	    benchmarks/.venv benchmarks/.work benchmarks/results
