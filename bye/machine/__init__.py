"""The machine under the stages: GPUs, processes, the model hub, signs of life."""
