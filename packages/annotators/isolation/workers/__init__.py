"""Plugins as they run in their own environment: one module each, with ``load(settings)`` and the plugin's verb."""
