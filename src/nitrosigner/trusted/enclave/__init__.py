"""The program that runs inside the enclave. Keys are open only in here."""
