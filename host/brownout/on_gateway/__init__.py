"""What `brownout rig setup-gateway` lays down on a gateway: programs of one file that need Python 3 and nothing else."""
