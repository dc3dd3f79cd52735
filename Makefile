# `make hunt`, `make real` and `make test` set up .venv by themselves. PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

MODEL ?= Qwen/Qwen2.5-0.5B
TWO = -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: hunt real test fuzz coverage audit controls lint clean

hunt: $(VENV)/ready
	$(BIN)/python hunt.py --model tiny --out output/tiny

real: $(VENV)/ready
	$(BIN)/python hunt.py --model $(MODEL) --out output/real/$(notdir $(patsubst %.gguf,%,$(MODEL)))

test: $(VENV)/ready
	$(BIN)/python -m pytest $(TWO)

fuzz: $(VENV)/ready
	FUZZ=5000 $(BIN)/python -m pytest tests/test_fuzz*.py

coverage: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check pytest-cov==7.1.0
	$(BIN)/python -m pytest $(TWO) --cov

audit: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	$(BIN)/pip-audit -r requirements.txt

controls: $(VENV)/ready
	$(BIN)/python -m bench.controls

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

$(VENV)/ready: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
