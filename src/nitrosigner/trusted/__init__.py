"""Ships in the enclave image and is measured by PCR0. Read this room first."""
