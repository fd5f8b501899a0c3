#!/usr/bin/env bash
# make test-clients: a real EVM node (anvil), web3.py, viem and ethers against the local stack, and our stores
# against a DynamoDB (dynalite), alone and in a played deployment of two signers that are killed under load.
# A beacon node with its validator client (Lodestar) lives on our signatures.
# Installs what it needs: npm packages below this folder, from the committed lock files; Debian's if they are
# missing. Skips nothing.
set -euo pipefail
cd "$(dirname "$0")"
. ../packages.sh
nodejs "make test-clients"
if [ ! -x node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
    npm ci --no-audit --no-fund --loglevel=error
fi
if [ ! -f lodestar/node_modules/.built ] || [ lodestar/package-lock.json -nt lodestar/node_modules/.built ]; then
    # Two of Lodestar's packages have native halves, built here: with a compiler, and with the headers that Node.js
    # brings along or Debian keeps apart. (Without them node-gyp would download some.)
    packages "make test-clients" g++ make python3
    prefix=$(dirname "$(dirname "$(readlink -f "$(command -v node)")")")
    if [ ! -f "$prefix/include/node/node.h" ]; then
        packages "make test-clients" libnode-dev
    fi
    (
        cd lodestar
        # Whatever else wants to run code at installation is not let.
        npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
        npm_config_nodedir=$prefix npm rebuild snappy bcrypto --loglevel=error
        touch node_modules/.built
    )
fi
cd ../..
exec .venv/bin/python -m pytest tests/external_clients "$@"
