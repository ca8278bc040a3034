"""What is trained: LoRA, a soft prompt, or the whole model; and adapters in the format that others read."""
