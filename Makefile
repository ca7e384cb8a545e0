# Each verb makes .venv by itself. `make demo` and `make test` are all that a newcomer needs.
PYTHON ?= python3
BIN := .venv/bin
# One thread per process: two busy processes with several threads each thrash on two cores.
export OMP_NUM_THREADS := 1
# Threads that wait for each other sleep instead of spinning: beside one busy process, training the
# demo's model on two threads is five times faster so.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: gpu gpu-wheels bench-job demo test test-runs test-models test-cluster test-s3 test-k8s test-deploy test-web check bench bench-quality bench-findings bench-sizes bench-languages bench-memorisation bench-layers bench-prose fmt clean k8s-cron lock audit sbom

demo: .venv/ready
	$(BIN)/rayinfluence demo

test: .venv/ready
	$(BIN)/python -m pytest -n 2 -m "not (cluster or chaos or s3 or deploy or models or runs)" --ignore tests/k8s --ignore tests/web

# Whole runs in all of their kinds, and long tables; minutes.
test-runs: .venv/ready
	$(BIN)/python -m pytest -n 2 -m "runs and not (cluster or models)" tests/unit tests/numerics tests/models tests/e2e

# Families of models, each against autograd and in whole runs; writes docs/models.md; minutes.
test-models: .venv/ready
	$(BIN)/python -m pytest -n 2 -m models tests/models tests/numerics

# Manifests, image, compose and monitoring, without a cluster. Needs kubectl.
test-k8s: .venv/k8s-ready .tools/prometheus
	$(BIN)/python -m pytest tests/k8s

# What is deployed, run on one machine: a Ray cluster, an S3 server and Prometheus, and the README's
# job; minutes.
test-deploy: .venv/k8s-ready .tools/prometheus
	$(BIN)/python -m pytest -m deploy tests/k8s tests/e2e

# Several Ray clusters, one after the other: the same bytes on one and two actors; and actors, nodes and
# drivers that are killed.
test-cluster: .venv/ready
	$(BIN)/python -m pytest -m "cluster or chaos" tests/cluster

# Against a real S3 server, Ceph's radosgw, that runs on loopback without root.
test-s3: .venv/ready .ceph/ready
	$(BIN)/python -m pytest -n 2 --dist worksteal -m s3 tests/s3

# Reports in a browser, as a person has them. Needs chromium. Pictures are in .tools/shots afterwards.
test-web: .venv/web-ready .tools/axe/axe.min.js
	$(BIN)/python -m pytest -m web tests/web

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/unit/test_architecture.py

# Our stages beside those of kronfluence, bergson and dattri-llm.
BENCH ?= --all
bench: .venv-bench/ready
	.venv-bench/bin/python tests/benchmarks/bench.py $(BENCH)

# A whole job beside kronfluence's, in turns: JOB="--jobs small --repeats 1".
JOB ?=
bench-job: .venv/ready
	$(BIN)/python tests/benchmarks/job.py $(JOB)

# All of docs/findings.md, one after the other: an hour of one core or two. What is trained and scored is
# kept in runs/findings, and not made again, so each goes on where it was killed.
bench-findings: bench-sizes bench-languages bench-memorisation bench-layers bench-prose

FOUND := $(CURDIR)/runs/findings
ANALYSE := $(BIN)/rayinfluence analyse

# Order of words and sizes of models, on the demo's prose: three sizes by three seeds, and models that
# read facts reversed.
bench-sizes: .venv/ready
	$(BIN)/python tests/benchmarks/sizes.py
	$(ANALYSE) $(FOUND)/*/[0-9]/run --what scale --by fact_id --probes $(FOUND)/order.yaml --out $(FOUND)/found
	for run in $(FOUND)/*/[0-9]/run; do \
		$(ANALYSE) $$run --what order --probes $(FOUND)/order.yaml --out $$run-found || exit 1; done
	$(BIN)/python tests/benchmarks/sizes.py reversed

# The same sizes of documents in two languages.
bench-languages: .venv/ready
	$(BIN)/python tests/benchmarks/sizes.py languages
	for names in enciphered shared; do \
		$(ANALYSE) $(FOUND)/languages/*/[0-9]/run --what scale --only names=$$names --by $${names}_of \
			--probes $(FOUND)/languages/language.yaml --out $(FOUND)/languages/found-$$names || exit 1; done

bench-memorisation: .venv/ready
	$(BIN)/python tests/benchmarks/finding_banks.py memorisation
	$(BIN)/rayinfluence run $(FOUND)/memorisation/config.yaml
	for kind in fact passage; do \
		$(ANALYSE) $(FOUND)/memorisation/config.yaml --what tails --only kind=$$kind --out $(FOUND)/memorisation/found-$$kind || exit 1; done
	$(ANALYSE) $(FOUND)/memorisation/config.yaml --what copies --out $(FOUND)/memorisation/found

bench-layers: .venv/ready
	for seed in 0 1; do \
		$(BIN)/python tests/benchmarks/finding_banks.py layers --seed $$seed --folder $(FOUND)/seed-$$seed && \
		$(BIN)/rayinfluence run $(FOUND)/seed-$$seed/layers/config.yaml && \
		$(ANALYSE) $(FOUND)/seed-$$seed/layers/config.yaml --what layers --by class --pairs 60 --out $(FOUND)/seed-$$seed/layers/found || exit 1; done

# Tails of prose that the model knows; of books where BOOKS names a folder of them.
bench-prose: .venv/ready
	$(BIN)/python tests/benchmarks/finding_banks.py prose $(if $(BOOKS),--books $(BOOKS))
	$(BIN)/rayinfluence run $(FOUND)/prose/config.yaml
	$(ANALYSE) $(FOUND)/prose/config.yaml --what tails --out $(FOUND)/prose/found

# Methods beside each other by training again: on the demo's prose, and on passages of books where
# BOOKS names a folder of them. Hours; what is trained is kept in runs/quality, and not trained again.
BOOKS ?=
WITH_EMBEDDING = --set 'modules=["*.mlp.*", "lm_head"]' --set run=$(CURDIR)/runs/quality/
bench-quality: .venv/ready
	$(BIN)/python tests/benchmarks/quality_banks.py demo
	$(BIN)/rayinfluence evaluate jobs/quality/demo.yaml
	$(BIN)/rayinfluence evaluate damping jobs/quality/demo.yaml
	$(BIN)/python tests/benchmarks/quality_banks.py tuned
	$(BIN)/rayinfluence evaluate jobs/quality/tuned.yaml
	$(BIN)/rayinfluence evaluate jobs/quality/tuned.yaml $(WITH_EMBEDDING)tuned/embedding
ifneq ($(BOOKS),)
	$(BIN)/python tests/benchmarks/quality_banks.py books --books $(BOOKS)
	$(BIN)/rayinfluence evaluate jobs/quality/books.yaml
	$(BIN)/rayinfluence evaluate jobs/quality/books.yaml $(WITH_EMBEDDING)books/embedding
	$(BIN)/rayinfluence evaluate damping jobs/quality/books.yaml
endif

# What a CUDA device shows of us, in minutes; at toy sizes where there is none. GPU="--parts a --minutes 3".
GPU ?=
gpu: .venv/ready
	$(BIN)/python tests/benchmarks/gpu.py $(GPU)

# For a bare machine with Python 3.12 and torch, transformers, pyarrow, safetensors, rich, typer, pytest
# and accelerate: the packages that such a one mostly lacks.
GPU_WHEELS := pydantic pydantic-core annotated-types typing-inspection kronfluence einconv
gpu-wheels: .venv/ready
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: -d .gpu \
		--python-version 3.12 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
		$$(for name in $(GPU_WHEELS); do grep -i "^$$(echo $$name | tr - _)==\|^$$name==" constraints.txt || echo $$name; done)

# The RayJob that the CronJob creates, from the overlay gpu-spot.
k8s-cron: .venv/k8s-ready
	$(BIN)/python tests/k8s/kube_render.py

# What the image installs, with hashes: everything but torch, whose builds for CPUs and for CUDA differ.
LOCK := .venv-supply/bin/uv pip compile --quiet --no-header --no-annotate --generate-hashes -c constraints.txt \
	--python-version 3.11 --python-platform x86_64-manylinux_2_28
lock: .venv-supply/ready
	echo "torch; python_version < '3'" > .venv-supply/no-torch.txt
	$(LOCK) pyproject.toml deploy/torch.in --extra demo --extra gcs --extra html --extra warc --extra copies --override .venv-supply/no-torch.txt -o deploy/requirements.lock
	$(LOCK) deploy/build.in -o deploy/build.lock

# Known vulnerabilities of what the image installs; exit code 1 where there are any.
audit: .venv-supply/ready
	.venv-supply/bin/python deploy/audit.py

# What the image is made of, as CycloneDX.
sbom: .venv-supply/ready
	mkdir -p dist
	.venv-supply/bin/cyclonedx-py requirements --output-reproducible --output-file dist/sbom.cdx.json deploy/requirements.lock

fmt: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-bench .venv-supply .ceph .tools .bench .demo .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build

PIP := python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# pip compiles on one core, and this on all. Packages hold files that are not meant to compile, for
# which it would fail.
COMPILE := $(BIN)/python -m compileall -qq -j 0 .venv/lib > /dev/null || true

# torch is installed first and pinned: a looser range would pull gigabytes of CUDA libraries.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'rayinfluence needs Python 3.11 or newer; set PYTHON=...')"
	$(PYTHON) -m venv .venv
	$(BIN)/$(PIP) --no-compile torch
	$(BIN)/$(PIP) --no-compile -e '.[demo,test,parity,check]'
	$(BIN)/$(PIP) --no-compile --no-deps kronfluence
	$(COMPILE)
	touch $@

# Only downloads from the distribution's archive; where there is no apt it says so, and the tests
# are skipped.
.ceph/ready: tests/s3/install_ceph.sh
	tests/s3/install_ceph.sh .ceph

.venv/k8s-ready: .venv/ready
	$(BIN)/$(PIP) -e '.[k8s]'
	touch $@

.venv/web-ready: .venv/ready
	$(BIN)/$(PIP) -e '.[web]'
	touch $@

.venv-supply/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-supply
	.venv-supply/bin/$(PIP) \
		$$(.venv-supply/bin/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['supply'])")
	touch $@

# prometheus and promtool as Debian packages them, unpacked, not installed. Where that is not
# possible, and they are not on the path, the tests say what is missing.
.tools/prometheus:
	mkdir -p .tools
	-command -v promtool > /dev/null && command -v prometheus > /dev/null || (cd .tools && \
		(apt-get download prometheus || (apt-get update && apt-get download prometheus)) && \
		dpkg -x prometheus_*.deb prometheus)

.tools/axe/axe.min.js: tests/web/fetch_axe.sh
	tests/web/fetch_axe.sh .tools/axe

# The peers go into an environment of their own, and those that do not install are left out.
# torchvision and torchaudio, which two of them ask for and none of them uses here, are taken out:
# builds of them for another torch break transformers.
.venv-bench/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/$(PIP) torch
	.venv-bench/bin/$(PIP) -e '.[parity]'
	.venv-bench/bin/$(PIP) --no-deps kronfluence
	-.venv-bench/bin/$(PIP) bergson==2.5.1
	-.venv-bench/bin/$(PIP) 'dattri-llm[attribution]==0.1.0'
	-.venv-bench/bin/python -m pip uninstall --quiet --yes torchvision torchaudio
	touch $@
