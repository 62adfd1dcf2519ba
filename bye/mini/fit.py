"""The training loop of the mini models of images."""

import sys
import time

import torch


def fit(name, model, loss_of, steps, lr, rise=0.05, **options):
    """Train a module by AdamW with one cycle of the rate and clipped gradients; say the loss every hundred steps.

    loss_of: a function of the step, from 1 on, that draws a batch and returns its loss and the part of it that is said;
    rise: share of the steps in which the rate grows; options: of AdamW.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, **options)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=rise)
    started, running = time.time(), None
    for step in range(1, steps + 1):
        loss, said = loss_of(step)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        running = said.item() if running is None else 0.98 * running + 0.02 * said.item()
        if step % 100 == 0 or step == steps:
            seconds = time.time() - started
            print(f"{name} {step}/{steps} loss {running:.4f} {seconds:.0f} s", file=sys.stderr, flush=True)
