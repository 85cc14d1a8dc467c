"""Where Q/DQ pairs go, and what integer weights become."""
