"""The public ops, a file each: checks, `torch.library` custom op, shapes without data (fake), autograd."""
