"""What `brownout rig setup-gateway` lays down on a gateway: programs of one file that need only Python 3."""
