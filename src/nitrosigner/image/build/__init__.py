"""Builds the enclave image: locked inputs, deterministic archives, one EIF."""
