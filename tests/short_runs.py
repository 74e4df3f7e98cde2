"""Fine-tunings of the painter of a few steps."""

from safetensors.torch import load_file

from eyesel.train import fit_diffusion

FEW = {
    "per_device_train_batch_size": 2,
    "max_steps": 4,
    "save_steps": 4,
    "logging_steps": 2,
    "learning_rate": 1e-2,
    "use_cpu": True,
}


def run_to(data, out, base, steps, resume=False, **settings):
    """The weights after so many steps."""
    fit_diffusion(data, out, base, resume=resume, **{**FEW, "max_steps": steps, **settings})
    return load_file(out / f"checkpoint-{steps}/model.safetensors")
