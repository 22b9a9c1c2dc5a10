"""What the families Qwen2-VL, Qwen2.5-VL and Qwen3-VL share. Each has a folder of its own."""
