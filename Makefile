# The one entry. `make test` on a fresh clone sets up everything it needs.
PYTHON ?= python3
BIN := .venv/bin
SIZE ?= small
RUN ?= build/digits
JOBS ?= 2
MINUTES ?= 2
SEED ?= 1
# Where the packages lie, for a Python in which nothing of ours is installed.
PACKAGES := training:service:registry:.
MODEL := demo/vlm2vec_demo/digits/model

.PHONY: help runtime setup chart demo protos serve example test soak lint format bench dist gpu \
    train-default oldest clean

help:  ## what there is
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*##/\t/' | expand -t 16

PROJECTS := pyproject.toml clients/python/pyproject.toml constraints.txt
# Compiled when first imported: most of it never is.
INSTALL = $(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable clients/python

runtime: .venv/runtime  ## make .venv with what serving needs, at pinned versions

setup: .venv/installed  ## make .venv with what development needs, at pinned versions

.venv/runtime: $(PROJECTS)
	$(PYTHON) -m venv .venv
	$(INSTALL) --editable '.[worker]'
	touch $@

.venv/installed: $(PROJECTS)
	$(PYTHON) -m venv .venv
	$(INSTALL) --editable '.[dev]'
	touch .venv/runtime $@

demo: runtime  ## the model that ships: published, served, measured, rolled out; offline, in a minute
	$(BIN)/vlm2vec demo --folder build/demo

example: setup  ## a tiny checkpoint, two adapters, a few lines embedded
	$(BIN)/python -m tests.parity.make_checkpoints example
	$(BIN)/vlm2vec embed --base example/qwen2_vl \
	    --adapter lora=tests/parity/data/adapters/qwen2_vl/lora \
	    --adapter dora=tests/parity/data/adapters/qwen2_vl/dora \
	    --input examples/requests.jsonl --output example/out.jsonl
	@cut -c1-110 example/out.jsonl

test: setup  ## run all tests: side by side, then those that need the machine to themselves
	$(BIN)/pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder -m "not alone"
	$(BIN)/pytest -m alone $$(grep -rl --include='test_*.py' 'mark\.alone' tests)

oldest: setup  ## the families' goldens with the oldest transformers that pyproject.toml allows
	$(BIN)/pip install --quiet --no-deps --upgrade --target build/oldest \
	    transformers==5.17.0 huggingface-hub==1.31.0
	PYTHONPATH=build/oldest $(BIN)/pytest tests/parity/test_backbones.py tests/parity/test_traps.py

soak: setup  ## mixed load while everything breaks, every answer checked: make soak MINUTES=60 SEED=1
	$(BIN)/python -m tests.soak --minutes $(MINUTES) --seed $(SEED)

chart: setup  ## generate the chart's table of values, its schema of settings, and compose's alerts
	$(BIN)/python helm/generate.py
	$(BIN)/python deploy/rules.py

protos: setup  ## generate the Python stubs from protos/
	protos/generate.sh

serve: runtime  ## serve the digits model, versions 1 and 2, on localhost:50051 and :8080
	$(BIN)/vlm2vec serve --model digits=$(MODEL)/base \
	    --adapter digits/1=$(MODEL)/v1 --adapter digits/2=$(MODEL)/v2

lint: setup  ## ruff, mypy --strict, buf; are the stubs those of the protos?
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --num-workers $(JOBS)
	cd protos && ../$(BIN)/buf lint && ../$(BIN)/buf format --diff --exit-code
	protos/check.sh

format: setup  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup  ## ours beside the alternatives: engine, service, front end, HTTP, rollout
	$(BIN)/python -m benchmarks.engine --size $(SIZE)
	$(BIN)/python -m benchmarks.service --size $(SIZE)
	$(BIN)/python -m benchmarks.front_end
	$(BIN)/python -m benchmarks.http
	$(BIN)/python -m benchmarks.rollout

dist: runtime  ## wheels of the server and the client, in dist/
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist clients/python .

gpu:  ## on a GPU: kernels, parity, engine, training, start-up; ARGUMENTS="--only parity"
	PYTHONPATH=$(PACKAGES) $(PYTHON) -m benchmarks.gpu $(ARGUMENTS)

train-default: setup  ## train the digits model that ships, score it, put it into the package
	OMP_NUM_THREADS=1 $(BIN)/torchrun --nproc-per-node 2 -m vlm2vec_demo.digits train --output $(RUN)
	$(BIN)/python -m vlm2vec_demo.digits data --output $(RUN)/data
	for version in v1 v2; do $(BIN)/vlm2vec evaluate --suite $(RUN)/data/suite.yaml --local \
	    --base $(RUN)/base --adapter $(RUN)/$$version --output $(RUN)/$$version.scores.json \
	    || exit 1; done
	$(BIN)/python -m vlm2vec_demo.digits ship --run $(RUN)

clean:  ## remove the environment, the wheels and the example
	rm -rf .venv dist example
