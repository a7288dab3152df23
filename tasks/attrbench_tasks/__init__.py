"""Table of the tasks and data set builders that ship with attrbench, and the plugin hooks that register them."""

from attrbench.plugins.hookspecs import Register, hookimpl

TASKS = (
    (
        "ddpm-mnist-mini",
        "DDPM (425k parameters) on 2,000 MNIST digits, 100 generated queries; minutes on a laptop",
        "minis.ddpm_mnist:DDPMMnistMini",
    ),
    (
        "ddpm-icons-mini",
        "DDPM (454k parameters) on 1,650 RGB icons of six families, 32x32; minutes on a laptop",
        "minis.ddpm_icons:DDPMIconsMini",
    ),
    (
        "digits-mini",
        "DDPM (163k parameters) on 1,500 digits of 8x8 pixels, 100 generated queries; seconds, for tests",
        "minis.digits:DigitsMini",
    ),
    (
        "mnist14-mini",
        "DDPM (163k parameters) on 5,000 MNIST digits of 14x14 pixels, 100 generated queries; minutes",
        "minis.mnist14:MNIST14Mini",
    ),
    (
        "mnist-removal",
        "DMin's removal experiment at the paper's scale: 60,000 MNIST digits; needs a GPU",
        "removal.mnist_removal:MnistRemoval",
    ),
    (
        "mnist-removal-mini",
        "5,000 MNIST digits of 14x14 pixels: removes what is retrieved, trains again, measures the strokes",
        "removal.mnist_removal:MnistRemovalMini",
    ),
    (
        "sd14-lora-mini",
        "SD 1.x in small (2.16M parameters, 32x32 pixels), LoRA on 825 captioned icons, 60 generated queries",
        "minis.text_to_image:SD14LoRAMini",
    ),
    (
        "sd3-full-mini",
        "SD 3 in small (1.6M parameters, 32x32 pixels), fully fine-tuned on 825 icons, 60 generated queries",
        "minis.text_to_image:SD3FullMini",
    ),
    (
        "sd3-lora-mini",
        "SD 3 in small (1.6M parameters, 32x32 pixels), LoRA on 825 captioned icons, 60 generated queries",
        "minis.text_to_image:SD3LoRAMini",
    ),
    (
        "planted-lora-mini",
        "a LoRA that reproduces planted images, near-duplicates and mislabelled captions: origins are known",
        "minis.planted:PlantedLoRAMini",
    ),
    (
        "customized-mini",
        "eight LoRAs, each customized on four exemplars under a word of their own: the origins are known",
        "minis.customized:CustomizedMini",
    ),
    (
        "sd14-lora",
        "DMin's SD 1.4 with LoRA on the six-source mixture; train the LoRA first (it is not published)",
        "dmin_paper.text_to_image_tasks:SD14LoRA",
    ),
    (
        "sd3-lora",
        "DMin's SD 3 Medium with the released LoRA on the released 8,846 images; the model is gated",
        "dmin_paper.text_to_image_tasks:SD3LoRA",
    ),
    (
        "sd3-full",
        "DMin's SD 3 Medium, fully fine-tuned on the mixture; train it first (it is not published)",
        "dmin_paper.text_to_image_tasks:SD3Full",
    ),
    ("ddpm-mnist", "DMin's DDPM on the 60,000 training images of MNIST", "dmin_paper.ddpm_tasks:DDPMMnist"),
    ("ddpm-cifar10", "DMin's DDPM on the 50,000 training images of CIFAR-10", "dmin_paper.ddpm_tasks:DDPMCifar10"),
)
"""Name, summary, and the class within this package."""
PREPARATIONS = (
    (
        "mixture",
        "the six captioned sources of DMin with 5% noised copies, 80% for training: an image folder",
        "datasets.mixture:Mixture",
    ),
)
"""The data sets that this package puts together, likewise."""


@hookimpl
def register_tasks(register: Register) -> None:
    """Register every benchmark task of this package: its name, one-line summary and class to import on use."""
    for name, summary, target in TASKS:
        register(name, summary, f"{__name__}.{target}")


@hookimpl
def register_preparations(register: Register) -> None:
    """Register every data set that `attrbench prepare` can build with this package (the DMin paper's mixture)."""
    for name, summary, target in PREPARATIONS:
        register(name, summary, f"{__name__}.{target}")
