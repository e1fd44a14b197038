"""Show what the workers do: to the operator's terminal and to Prometheus."""
