"""The host of the enclave: relays, stores ciphertext, restarts. Holds no secret."""
