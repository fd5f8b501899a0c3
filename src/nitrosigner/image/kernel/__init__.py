"""The enclave's kernel: its configuration and how it is built."""
