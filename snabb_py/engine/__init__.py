"""Packets, links, apps and the engine that breathes them."""
