"""One model: its file, its vocabulary, its weights and KV cache, and how a conversation becomes its tokens."""
