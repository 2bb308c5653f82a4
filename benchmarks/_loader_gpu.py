"""The part of ``loader.py`` for a CUDA card: does the loader keep a ResNet-18 at 224 pixels busy?"""

import itertools
import os
import time

import numpy as np

PRECISIONS = ("float32", "bfloat16")


def on_a_gpu(batches, size: int, batch: int, seconds: float) -> list[dict]:
    """Images a second, forward, backward and step, of tensors that are there and of what the loader brings.

    ``batches(workers)`` gives endless arrays float32 [batch, 3, size, size].  TF32 and cuDNN's own choice of algorithms
    are on, as in training.  The card is waited for at the end of a measured window only, so that neither road pays for
    waits of its own.
    """
    import torch

    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    there = torch.randn(batch, 3, size, size, device="cuda").to(memory_format=torch.channels_last)
    found = []
    for precision in PRECISIONS:
        step = stepper(precision, batch)
        resident = rate(step, itertools.repeat(there), seconds)
        for workers in sorted({1, 4, os.cpu_count()}):
            fed = rate(step, batches(workers), seconds)
            found.append(
                {"precision": precision, "workers": workers, "resident": resident, "fed": fed, "share": fed / resident}
            )
            print(
                f"  ResNet-18 {precision}, workers {workers}: {fed:,.0f} of {resident:,.0f} images/s, "
                f"{fed / resident:.0%}",
                flush=True,
            )
    return found


def stepper(precision: str, batch: int):
    """One step of training, a function of images."""
    import timm
    import torch

    model = timm.create_model("resnet18", num_classes=7).cuda().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters())
    labels = torch.randint(0, 7, (batch,), device="cuda")

    def step(images) -> None:
        if isinstance(images, np.ndarray):  # as the training loop takes them
            images = torch.from_numpy(images).to("cuda").contiguous(memory_format=torch.channels_last)
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = torch.nn.functional.cross_entropy(model(images), labels[: len(images)])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    return step


def rate(step, stream, seconds: float) -> float:
    """Images a second of the clock, after thirty steps that nobody counts."""
    import torch

    for images in itertools.islice(stream, 30):
        step(images)
    torch.cuda.synchronize()
    done, started = 0, time.perf_counter()
    for images in stream:
        step(images)
        done += len(images)
        if time.perf_counter() - started >= seconds:
            break
    torch.cuda.synchronize()
    return done / (time.perf_counter() - started)


def table(found: list[dict], name: str, batch: int) -> str:
    lines = [
        f"ResNet-18 at 224 pixels on {name}, batch {batch}, forward, backward and step:",
        "",
        "| precision | workers | tensors already there | fed by the loader | share |",
        "|---|---|---|---|---|",
    ]
    for g in found:
        lines.append(
            f"| {g['precision']} | {g['workers']} | {g['resident']:,.0f}/s | {g['fed']:,.0f}/s | **{g['share']:.0%}** |"
        )
    return "\n".join(lines) + "\n"
