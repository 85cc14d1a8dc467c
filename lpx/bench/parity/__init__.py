"""Parity: does an engine still tell real from fake as the reference does?"""
