"""Enclave image files (EIF), version 4: written, read, measured and signed."""
