"""Inside the VM: commands, files and the job loop. Small, since it ships in every image."""
