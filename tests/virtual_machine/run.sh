#!/usr/bin/env bash
# make test-vm: builds the enclave image and runs the wallet and validator flows through
# it, in a virtual machine. Installs what it needs; skips nothing.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/packages.sh
packages "make test-vm" gcc binutils make flex bison bc xz-utils perl libc6-dev libelf-dev debian-archive-keyring
make --no-print-directory image
# The flows first: they count keys, and the others make more.
exec .venv/bin/python -m pytest tests/flows/test_{wallet,faults,secrets_stay_inside}.py tests/virtual_machine --image build/image/enclave.eif "$@"
