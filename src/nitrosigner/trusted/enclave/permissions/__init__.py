"""Who asks, and what the administrator's manifest lets them."""
