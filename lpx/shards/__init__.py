"""Parts of long work, made by several machines that know nothing of each other, and joined."""
