"""Data sets from the Hub as home folders."""
