"""Generates parts of this repository: tables, pages and the class names."""
