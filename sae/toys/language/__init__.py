"""Small language models trained on a local text: network, tokenizer, training, and n-gram models to compare with."""
