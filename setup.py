"""Packaging entry point; everything it needs to know stands in pyproject.toml."""

from setuptools import setup

setup()
