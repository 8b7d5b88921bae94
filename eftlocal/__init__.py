"""Emulated fine-tuning on one machine: a large base model steered, at decoding time, by a small fine-tuned one."""
