"""Training: the loop and its checkpoints, LoRA, self-prompted references, and `spvmia finetune`."""
