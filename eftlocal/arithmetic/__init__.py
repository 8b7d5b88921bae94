"""The arithmetic of emulated fine-tuning, in numpy: logits come in, tokens go out."""
