#!/usr/bin/env bash
# make test-vm: builds the enclave image and runs the wallet and validator flows through
# it, in a virtual machine. Installs what it needs; skips nothing.
set -euo pipefail
cd "$(dirname "$0")/../.."
packages=(gcc binutils make flex bison bc xz-utils perl libc6-dev libelf-dev debian-archive-keyring)
missing=()
for package in "${packages[@]}"; do
    dpkg-query --show --showformat '${db:Status-Abbrev}' "$package" 2>/dev/null | grep -q '^ii' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "make test-vm needs packages of Debian; as root: apt-get install ${missing[*]}" >&2
        exit 2
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends "${missing[@]}" >/dev/null
fi
make --no-print-directory image
# The flows first: they count keys, and the others make more.
exec .venv/bin/python -m pytest tests/flows/test_{wallet,faults,secrets_stay_inside}.py tests/virtual_machine --image build/image/enclave.eif "$@"
