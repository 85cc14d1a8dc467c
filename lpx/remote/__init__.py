"""lpx on a board, driven from a workstation over plain OpenSSH."""
