"""The steps behind `lpx.Workspace`, a module each."""
