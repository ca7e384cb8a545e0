# Each verb makes .venv by itself. `make demo` and `make test` are all that a newcomer needs.
PYTHON ?= python3
BIN := .venv/bin
# One thread per process: two busy processes with several threads each thrash on two cores.
export OMP_NUM_THREADS := 1
# Threads that wait for each other sleep instead of spinning: beside one busy process, training the
# demo's model on two threads is five times faster so.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: demo test test-cluster test-s3 check bench fmt clean

demo: .venv/ready
	$(BIN)/rayinfluence demo

test: .venv/ready
	$(BIN)/python -m pytest

# Kills actors, nodes and drivers on a cluster of several nodes.
test-cluster: .venv/ready
	$(BIN)/python -m pytest -m chaos tests/cluster

# Against a real S3 server, Ceph's radosgw, that runs on loopback without root.
test-s3: .venv/ready .ceph/ready
	$(BIN)/python -m pytest -m s3 tests/s3

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/unit/test_architecture.py

# Our stages beside those of kronfluence, bergson and dattri-llm.
BENCH ?= --all
bench: .venv-bench/ready
	.venv-bench/bin/python tests/benchmarks/bench.py $(BENCH)

fmt: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-bench .ceph .bench .demo .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build

# torch is installed first and pinned: a looser range would pull gigabytes of CUDA libraries.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'rayinfluence needs Python 3.11 or newer; set PYTHON=...')"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,test,parity,check]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps kronfluence
	touch $@

# Only downloads from the distribution's archive; where there is no apt it says so, and the tests
# are skipped.
.ceph/ready: tests/s3/install_ceph.sh
	tests/s3/install_ceph.sh .ceph

# The peers go into an environment of their own, and those that do not install are left out.
# torchvision and torchaudio, which two of them ask for and none of them uses here, are taken out:
# builds of them for another torch break transformers.
.venv-bench/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[parity]'
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps kronfluence
	-.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt bergson==2.5.1
	-.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt 'dattri-llm[attribution]==0.1.0'
	-.venv-bench/bin/python -m pip uninstall --quiet --yes torchvision torchaudio
	touch $@
