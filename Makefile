# convmesh: each target first builds .venv from the lock (about a minute, once).
#
#   make demo       train configs/demo.py into runs/demo, evaluate it, draw its detections
#   make check      style, formatting, types, structure and the fast tests: before each commit
#   make test       run every test
#   make lint       check style, formatting and types
#   make proof      every mesh against one device, in float64: writes docs/equality.md
#   make costs      the cost of each way to shard: writes docs/costs.md
#   make models     parameters and FLOPs of each detector: writes docs/models.md
#   make lock       compile the lock again (LOCK_FLAGS=--upgrade takes newer releases)
#   make clean      remove .venv and the caches of all tools (runs/ stays)
#
#   PYTHON=/path/to/python3.12   build .venv with this interpreter
#   EXTRA=cuda                   also install the wheels of an accelerator: cuda, cuda13, tpu or
#                                rocm; detected where there is an NVIDIA GPU or a TPU; EXTRA= for
#                                none. The lock has no such wheels; those installed fit the JAX
#                                that it pins.
#   DEMO_FLAGS="..."             flags for the demo; 2 simulated devices where there is only a CPU
#   TEST_FLAGS="..."             flags for pytest, in `make check` and `make test`

PYTHON ?= python3 python3.13 python3.12 python3.11
EXTRA ?= $(shell if nvidia-smi -L 2>/dev/null | grep -q GPU; then echo cuda; \
    elif ls /dev/accel0 /dev/vfio/0 >/dev/null 2>&1; then echo tpu; fi)
DEMO_FLAGS ?= $(if $(EXTRA),,--cpu-devices 2)
LOCK_FLAGS =
TEST_FLAGS =

# The tests of `make check`: files that compile no model and start few processes, so that all of
# them take under a minute. Named one by one, since no test is marked; `make test` runs every test.
CHECK_TESTS := tests/test_house.py tests/test_api.py tests/config \
    tests/distributed/test_batch.py tests/distributed/test_clusters.py \
    tests/distributed/test_console.py \
    tests/data/formats/coco tests/data/formats/voc tests/data/formats/yolo \
    tests/data/formats/folder/test_folder.py \
    tests/data/formats/test_labelme.py tests/data/formats/test_paired_files.py \
    tests/data/formats/test_pixel_boxes.py tests/data/formats/test_tally.py \
    tests/data/test_documents.py tests/data/test_record.py tests/data/test_splits.py \
    tests/ops/test_points.py tests/ops/test_losses.py \
    tests/workdir/test_json_lines.py tests/workdir/test_lock.py
BIN := .venv/bin
LOCKS := requirements-build.lock requirements.lock
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
READY := .venv/.ready
EXTRA_READY := $(if $(EXTRA),$(READY)-$(EXTRA))

# The caller's Python environment must not leak into .venv.
unexport PYTHONPATH PYTHONHOME
export PIP_USER := 0

.PHONY: demo check test lint proof costs models lock clean
.DELETE_ON_ERROR:

demo: $(READY) $(EXTRA_READY)
	$(BIN)/convmesh train --config configs/demo.py --workdir runs/demo $(DEMO_FLAGS)
	$(BIN)/convmesh eval --workdir runs/demo --split test $(DEMO_FLAGS)
	$(BIN)/convmesh eval --workdir runs/demo --split test \
	    --config.data.name=digit_scenes/other_seed $(DEMO_FLAGS)
	@echo "Look at runs/demo/eval/test/predictions.png and runs/demo/plots/"

check: lint
	$(BIN)/python -m pytest $(TEST_FLAGS) $(CHECK_TESTS)

test: $(READY) $(EXTRA_READY)
	$(BIN)/python -m pytest $(TEST_FLAGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

proof: $(READY)
	PYTHONPATH=tests $(BIN)/python tools/equality_table.py

costs: $(READY)
	$(BIN)/python tools/cost_table.py

models: $(READY)
	$(BIN)/python tools/model_table.py

# --no-deps: the lock is complete. --no-build-isolation: `promise` has no wheel and is built with
# the setuptools that the lock pins. --no-compile: the import at the end compiles the modules that
# are used, in half the time, and shows that the installation works.
$(READY): $(LOCKS) pyproject.toml | $(BIN)/python
	@echo "Installing the packages of requirements.lock into .venv (about a minute) ..."
	@$(INSTALL) --no-deps --require-hashes -r requirements-build.lock
	@$(INSTALL) --no-deps --require-hashes --no-compile --no-build-isolation -r requirements.lock
	@$(INSTALL) --no-deps --no-build-isolation -e .
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -c 'import jax, flax.linen, optax, orbax.checkpoint, \
	    grain, tensorflow_datasets, cv2, faster_coco_eval, sklearn.datasets, tensorboardX, convmesh'
	@pwd -P > $@

$(READY)-%: $(READY)
	@echo "Installing the extra '$*' into .venv ..."
	@$(BIN)/python -m pip freeze --exclude-editable > .venv/constraints.txt
	@$(INSTALL) --no-build-isolation -c .venv/constraints.txt -e '.[$*]'
	@touch $@

$(BIN)/python:
	@for python in $(PYTHON); do \
	    "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	        2>/dev/null && break; \
	    python=; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "convmesh needs Python 3.11, 3.12 or 3.13; not found as $(PYTHON)." \
	        "Name one: make PYTHON=/path/to/python3.12" >&2; exit 1; \
	fi; \
	if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
	    echo "$$python cannot create a venv (no ensurepip). Install it (Debian and Ubuntu:" \
	        "apt-get install python3-venv) or name another: make PYTHON=/path/to/python3.12" >&2; \
	    exit 1; \
	fi; \
	echo "Creating .venv with $$("$$python" -V)"; \
	"$$python" -m venv --clear .venv

# A venv works only in the folder it was created in; another interpreter needs a new one.
ifneq ($(wildcard $(READY)),)
  ifneq ($(shell cat $(READY)),$(shell pwd -P))
    .PHONY: $(READY) $(BIN)/python
  else ifneq ($(origin PYTHON),file)
    ifneq ($(shell $(PYTHON) -V 2>&1),$(shell $(BIN)/python -V 2>&1))
      .PHONY: $(READY) $(BIN)/python
    endif
  endif
endif

# One lock for every supported Python and system. No index address may get into it.
COMPILE := uv pip compile --quiet --universal --python-version 3.11 --fork-strategy requires-python \
    --generate-hashes --no-emit-index-url --no-annotate --custom-compile-command 'make lock'

lock: | $(BIN)/python
	@PATH="$$PATH:$$PWD/$(BIN)"; set -e; \
	command -v uv >/dev/null || $(INSTALL) uv; \
	$(COMPILE) --python $(BIN)/python $(LOCK_FLAGS) --extra test pyproject.toml -o requirements.lock; \
	$(COMPILE) --python $(BIN)/python $(LOCK_FLAGS) --group build -c requirements.lock \
	    -o requirements-build.lock; \
	if grep -n '://' $(LOCKS); then echo "an address got into the lock" >&2; exit 1; fi

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
