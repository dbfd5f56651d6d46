"""The storage adapter: inputs and outputs between the store and VMs, and the ends of jobs."""
