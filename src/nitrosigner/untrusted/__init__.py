"""What runs outside the enclave. It may refuse service; it can do no other harm."""
