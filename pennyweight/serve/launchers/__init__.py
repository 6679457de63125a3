"""What starts the processes of a service: local.py on this machine."""
