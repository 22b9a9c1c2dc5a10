"""unit/ parity/ e2e/: small pieces, golden vectors, and the real commands as a user runs them."""
