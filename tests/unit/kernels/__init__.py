"""The GPU's kernels beside plain torch: in Triton's interpreter, or on a GPU where there is one."""
