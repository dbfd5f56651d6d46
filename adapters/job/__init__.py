"""The job adapter: jobs in from sites and sources, out to VMs, back with their end."""
