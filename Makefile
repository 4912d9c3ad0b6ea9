PYTHON ?= python3
BIN := .venv/bin

demo: .venv/installed
	$(BIN)/edgekd run examples/sensor/recipe.toml --out runs

test: .venv/installed
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: .venv/installed
	$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy && $(BIN)/python -m pytest -q -n 2 tests/test_architecture.py tests/unit

# timm and torchvision lie beside the tested set, without CUDA's packages: tests/support/model_packages.py.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv && $(BIN)/pip install -q -c constraints.txt -e ".[all,test]"
	$(BIN)/pip install -q -c constraints.txt --no-deps --upgrade --target .venv/timm timm torchvision
	touch $@

.PHONY: demo test check
