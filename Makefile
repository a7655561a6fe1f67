# make demo: install, run the demo, print the scores. make test: the tests. make check: format, lint, types, contracts.
# make docs: the site, in docs/_build/html, with its tutorials executed; it fetches nothing but its packages.
# make peers: the tests and trainers that need other libraries, in an environment that has them.
# make bench: the benchmarks at a small size. make attack: kills, damage, full disks and hostile files against small runs,
# in less than an hour. Tests run in two processes, so that a thread each is enough.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-newest test-slow test-kernels test-engines peers docs bench attack check format clean

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,check]'
	touch $@

demo: .venv/installed
	$(BIN)/sae run configs/demo.toml

test: .venv/installed
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

# The newest versions that pyproject.toml admits, not those of constraints.txt. TORCH=torch==2.13.0 keeps a CPU build.
TORCH ?= torch
test-newest:
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager '$(TORCH)' --editable '.[test]'
	OPENBLAS_NUM_THREADS=1 .venv-newest/bin/python -m pytest -n 2 --dist worksteal

test-slow: .venv/installed
	$(BIN)/python -m pytest -m slow

# The kernels for GPUs in Triton's interpreter, against plain torch. A torch with CUDA brings a Triton of its own.
test-kernels: .venv/installed
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target .triton 'triton>=3.9'
	PYTHONPATH=.triton TRITON_INTERPRET=1 CUDA_VISIBLE_DEVICES= $(BIN)/python -m pytest -q tests/training/kernels/gpu_cases.py

# The other libraries need an older transformer_lens, hence an environment of their own, of 2.6 GB. Comparisons with them
# (each fails where its library is missing), then one quick line of every trainer.
.venv-peers/installed: pyproject.toml benchmarks/peers.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --upgrade pip
	.venv-peers/bin/python -m pip install --quiet --constraint benchmarks/peers.txt --editable '.[test,peers]'
	touch $@

peers: .venv-peers/installed
	SAE_PEERS=1 OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 .venv-peers/bin/python -m pytest -m peer
	.venv-peers/bin/python -m benchmarks.peers

# Workers as jobs of submitit and as tasks of Ray, neither of which needs a cluster for its tests.
.venv-engines/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-engines
	.venv-engines/bin/python -m pip install --quiet --upgrade pip
	.venv-engines/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[test,slurm,ray]'
	touch $@

test-engines: .venv-engines/installed
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 .venv-engines/bin/python -m pytest -m 'slow or not slow' \
		tests/pipelines/test_engines.py tests/pipelines/test_workers.py

.venv/docs-installed: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

docs: .venv/docs-installed
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

bench: .venv/installed
	$(BIN)/python -m benchmarks

attack: .venv/installed
	$(BIN)/python -m benchmarks.attack

check: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .venv-newest .venv-peers .venv-engines .triton runs docs/_build
