"""Emulated fine-tuning: several models decode together as one emulator."""
