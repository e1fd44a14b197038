"""What tests and benchmarks share: proxies as processes, watchers, faults on demand."""
