#!/usr/bin/env bash
# make test-clients: a real EVM node (anvil), web3.py, viem and ethers against the local stack, and our stores
# against a DynamoDB (dynalite), alone and in a played deployment of two signers that are killed under load.
# A beacon node with its validator client (Lodestar) lives on our signatures.
# Installs what it needs below this folder, from the committed lock files; skips nothing.
set -euo pipefail
cd "$(dirname "$0")"
command -v node >/dev/null && command -v npm >/dev/null || {
    echo "make test-clients needs Node.js 20 and npm: apt-get install nodejs npm" >&2
    exit 2
}
if [ ! -x node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
    npm ci --no-audit --no-fund --loglevel=error
fi
if [ ! -x lodestar/node_modules/.bin/lodestar ] || [ lodestar/package-lock.json -nt lodestar/node_modules/.package-lock.json ]; then
    # Only these two need their native half; whatever else wants to run code is not let.
    (
        cd lodestar
        npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
        if [ -f /usr/include/node/node.h ]; then export npm_config_nodedir=/usr; fi
        npm rebuild snappy bcrypto --loglevel=error
    )
fi
cd ../..
exec .venv/bin/python -m pytest tests/external_clients "$@"
