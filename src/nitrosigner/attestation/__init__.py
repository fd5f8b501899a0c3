"""The verifier of Nitro attestation documents. Pure: time and roots are arguments."""
