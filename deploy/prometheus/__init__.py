"""What Prometheus is told: which adapters and brokers it scrapes, and when it raises an alarm."""
