# Everything that a person types. Each target makes .venv when it is missing or stale.
SHELL  := /bin/bash
PYTHON ?= python3
ARCH   ?= x86_64
BIN    := .venv/bin

.PHONY: demo test check lint types imports bench test-clients image synth test-vm bench-vm lock lock-image clean
.DEFAULT_GOAL := check

.venv/ready: requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "nitrosigner needs Python 3.11 or later: make PYTHON=python3.11 …" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "this Python has no venv: apt-get install python3-venv" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: .venv/ready        ## the wallet job, for real, on this machine
	$(BIN)/nitrosigner demo

test: .venv/ready        ## every test that needs nothing beyond Python
	$(BIN)/python -m pytest

check: lint types imports test  ## the gate: everything that a change must pass

lint: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: .venv/ready
	$(BIN)/mypy

imports: .venv/ready
	$(BIN)/lint-imports

bench: .venv/ready       ## ratios against references, in one run
	$(BIN)/python bench/run.py

test-clients: .venv/ready  ## a real EVM node, web3.py, viem and ethers against the local stack
	bash tests/external_clients/run.sh

image: .venv/ready       ## the enclave image: build/image/enclave.eif and its measurements. ARCH=aarch64: for Graviton, build/image-aarch64
	$(BIN)/python -m nitrosigner.image.build --architecture $(ARCH) --output build/image$(patsubst %,-%,$(filter-out x86_64,$(ARCH)))

synth: .venv/ready       ## the AWS stacks as templates in cdk.out/; needs Node.js, no account, no Docker
	$(BIN)/python -m nitrosigner.infrastructure.app

test-vm: .venv/ready     ## the image in a virtual machine, with every flow run through it
	bash tests/virtual_machine/run.sh

bench-vm: .venv/ready    ## how fast the booted image is, under software emulation
	$(BIN)/python bench/virtual_machine.py

lock-image: .venv/ready  ## the newest Debian packages for the image; changes PCR0
	$(BIN)/python -m nitrosigner.image.build --lock

lock: .venv/ready        ## resolve requirements/dev.txt again
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --only-binary :all: --group dev --group infrastructure pyproject.toml -o requirements/dev.txt
	for program in gateway:3.13 parent:3.11; do $(BIN)/uv pip compile --quiet --python-version $${program#*:} --generate-hashes --no-emit-index-url --no-header --only-binary :all: --constraints requirements/dev.txt --group pyproject.toml:$${program%:*} -o requirements/$${program%:*}.txt; done

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
