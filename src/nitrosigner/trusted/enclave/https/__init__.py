"""The door: TLS ends here, and bytes become requests within bounds."""
