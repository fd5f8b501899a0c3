"""Plays the Nitro hypervisor with a real machine: boots an enclave image in QEMU."""
