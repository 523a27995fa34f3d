"""What ``tests.benchmarks.peer`` runs elsewhere; nothing here imports this package."""
