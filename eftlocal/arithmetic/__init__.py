"""The arithmetic of emulated fine-tuning: logits in, tokens out; numpy only."""
