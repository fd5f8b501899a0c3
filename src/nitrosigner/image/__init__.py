"""The enclave image: what is in it and what it measures to."""
