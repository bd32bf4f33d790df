# `make demo` and `make test` make .venv themselves; all they need is Python 3.10 or later.
PYTHON ?= python3
BIN := $(CURDIR)/.venv/bin
READY := .venv/.ready
LABEL_BIN := $(CURDIR)/.venv-label/bin
LABEL_READY := .venv-label/.ready
PEERS_BIN := $(CURDIR)/.venv-peers/bin
PEERS_READY := .venv-peers/.ready
PEERS := $(CURDIR)/build/peers
BUNDLE := bundles/pathology_mitosis_segmentation
DEMO := $(CURDIR)/demo

.PHONY: demo test test-slow test-exhaustive test-docs test-all test-label test-peers bench lint docs pictures configurations clean

$(READY): requirements.txt requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or later is needed, found $$($(PYTHON) --version); try make PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt -e .
	touch $@

# MONAI Label needs numpy < 2: an environment of its own, with this folder on its path
$(LABEL_READY): requirements-label.txt
	test -x $(LABEL_BIN)/python || $(PYTHON) -m venv .venv-label
	$(LABEL_BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-label.txt
	$(LABEL_BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

# programs of others that read what --formats writes; two of them without what they need besides
$(PEERS_READY): tests/peers/requirements.txt
	test -x $(PEERS_BIN)/python || $(PYTHON) -m venv .venv-peers
	$(PEERS_BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/peers/requirements.txt
	$(PEERS_BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		tiatoolbox==2.1.3 girder-large-image-annotation==1.35.6
	-cd tests/peers && npm install --silent --no-package-lock
	touch $@

demo: $(READY)
	$(BIN)/python -m monai_ext phantom mitosis --dst $(DEMO)/data --overwrite
	cd $(BUNDLE) && $(BIN)/python -m monai.bundle run training \
		--config_file "['configs/train.json','configs/quickstart.json']" \
		--dataset_dir $(DEMO)/data --ckpt_dir $(DEMO)/models
	$(BIN)/python -m monai_ext tune mitosis --dataset_dir $(DEMO)/data --ckpt_dir $(DEMO)/models
	cd $(BUNDLE) && $(BIN)/python -m monai.bundle run \
		--config_file "['configs/train.json','configs/evaluate.json']" \
		--dataset_dir $(DEMO)/data --ckpt_dir $(DEMO)/models --output_dir $(DEMO)/evaluation
	cd $(BUNDLE) && $(BIN)/python -m monai.bundle run \
		--config_file configs/inference.json \
		--dataset_dir $(DEMO)/data --ckpt_dir $(DEMO)/models --output_dir $(DEMO)/inference
	@echo; echo "Open $(DEMO)/evaluation/report.html and $(DEMO)/inference/report.html in a browser."
	@echo "See and correct what was found: $(BIN)/python -m monai_ext view $(DEMO)/inference"

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow" $(PYTEST_ARGS)

# in the order of the folders: files of few long tests (commands of the bundles) begin first, and none is left to the end
test-slow: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "slow and not exhaustive" --ignore tests/label --ignore tests/docs $(PYTEST_ARGS)

# the rest of what is the same code for every bundle
test-exhaustive: $(READY) $(LABEL_READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m exhaustive --ignore tests/docs $(PYTEST_ARGS)

test-docs: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests/docs $(PYTEST_ARGS)

test-label: $(READY) $(LABEL_READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not exhaustive" tests/label $(PYTEST_ARGS)

# not part of CI: readers that are large or need more than Python
test-peers: $(READY) $(PEERS_READY)
	rm -rf $(PEERS) && mkdir -p $(PEERS)
	$(BIN)/python tests/peers/write.py $(PEERS)
	$(PEERS_BIN)/python -W ignore tests/peers/read.py $(PEERS)

test-all: test test-slow test-label test-exhaustive test-docs

bench: $(READY)
	$(BIN)/python -m pytest benchmarks --benchmark-columns=min,median,rounds --benchmark-sort=name $(PYTEST_ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

pictures: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python docs/make_pictures.py $(PICTURES)

configurations: $(READY)
	$(BIN)/python docs/configurations.py

clean:
	rm -rf .venv .venv-label .venv-peers tests/peers/node_modules demo site build *.egg-info
